"""Run a suite on an engine: all of it, or as much of it as the thresholds need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.engine_protocol import Engine
from ..core.errors import NothingToEvaluate
from ..core.model_engine import run_all
from ..core.patch_set import random_floor
from ..core.success import AttackSuccess, attack_success
from .gate import Check, Outcome, drift_at_most, share_at_least, share_at_most
from .golden import logits_bytes
from .sequential import SequentialGate
from .suite import Classes, Suite, SuitePatch, paste_some
from .thresholds import Threshold

UNSEEN = -1
"""Stands for the class of an image that was not run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """Predictions of one engine.

    Attributes:
        clean: int64 N, without a patch; UNSEEN where the image was not run.
        patched: for each patch int64 M, with it.
        floor: for each patch int64 M, with noise of its size in its places.
        gates: of a quick run, by the name of the check; empty for a full one.
        clean_logits_sha256: of the logits without a patch, all images in the suite's order; None
            for a quick run.
    """

    clean: Classes
    patched: tuple[Classes, ...]
    floor: tuple[Classes, ...]
    gates: Mapping[str, SequentialGate]
    clean_logits_sha256: str | None

    @property
    def images_used(self) -> int:
        """Images that were run."""
        return int((self.clean != UNSEEN).sum())


def measure(
    engine: Engine,
    suite: Suite,
    thresholds: Mapping[str, Threshold],
    *,
    floor_seed: int,
    quick: bool,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measurement:
    """Run the suite, image after image with all its patches.

    Args:
        engine: open.
        suite: what to run.
        thresholds: by name; a quick run stops when they are decided: every gate passed, or one
            failed.
        floor_seed: of the noise.
        quick: whether to stop early.
        batch_size: images a call.
        progress: told after each batch how many of all images are done.

    Raises:
        InputError: the engine fails or a patch does not fit.
    """
    count = len(suite.images)
    order = shuffled(count) if quick else np.arange(count, dtype=np.int64)
    clean = np.full(count, UNSEEN, dtype=np.int64)
    patched = tuple(np.full(len(patch.rows), UNSEEN, dtype=np.int64) for patch in suite.patches)
    floor = tuple(values.copy() for values in patched)
    noise = [
        random_floor(patch.patch_set, np.random.default_rng([floor_seed, number]))
        for number, patch in enumerate(suite.patches)
    ]
    entry_of = [_entries(patch, count) for patch in suite.patches]
    gates = _gates(suite, thresholds) if quick else {}
    digest = hashlib.sha256()
    for start in range(0, count, batch_size):
        rows = order[start : start + batch_size]
        logits = run_all(engine, suite.images[rows])
        digest.update(logits_bytes(logits))
        clean[rows] = logits.argmax(axis=1)
        for number, patch in enumerate(suite.patches):
            which = entry_of[number][rows]
            which = which[which != UNSEEN]
            if len(which):
                patched[number][which] = engine.predict(
                    patch.paste(suite.images, which), batch_size
                )
                own = suite.images[patch.rows[which]]
                floor[number][which] = engine.predict(
                    paste_some(noise[number], own, which), batch_size
                )
        progress(min(start + batch_size, count), count)
        if gates and _decided(gates, suite, clean, patched):
            break
    return Measurement(
        clean=clean,
        patched=patched,
        floor=floor,
        gates=gates,
        clean_logits_sha256=None if quick else digest.hexdigest(),
    )


def checks_of(
    measurement: Measurement, suite: Suite, thresholds: Mapping[str, Threshold]
) -> list[Check]:
    """Return what each gate says of a measurement.

    Raises:
        NothingToEvaluate: a gated patch or the clean accuracy has no image that counts.
    """
    checks = []
    for number, patch in enumerate(suite.patches):
        if not patch.facts.gated:
            continue
        here = success_of(measurement, suite, number).share
        max_asr, max_drift = thresholds["max_asr"].value, thresholds["max_drift"].value
        name = f"max_asr of {patch.facts.name}"
        if name in measurement.gates:
            checks.append(measurement.gates[name].check())
        elif max_asr is not None:
            checks.append(share_at_most(name, max_asr, here["k"], here["n"]))
        if max_drift is not None:
            rows, which = seen(measurement, suite, number)
            lab = attack_success(
                suite.lab_clean[rows], patch.lab[which], suite.labels[rows], patch.facts.target
            ).share
            name = f"max_drift of {patch.facts.name}"
            checks.append(drift_at_most(name, max_drift, here["value"], lab["value"], here["n"]))
    if checks and thresholds["min_clean"].value is not None:
        if "min_clean" in measurement.gates:
            checks.append(measurement.gates["min_clean"].check())
        else:
            right = int((measurement.clean == suite.labels).sum())
            checks.append(
                share_at_least("min_clean", thresholds["min_clean"].value, right, len(suite.labels))
            )
    return checks


def seen(
    measurement: Measurement, suite: Suite, number: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, of one patch, the suite's rows and the set's entries that were run, int64 K each."""
    which = np.flatnonzero(measurement.patched[number] != UNSEEN)
    return suite.patches[number].rows[which], which


def success_of(measurement: Measurement, suite: Suite, number: int) -> AttackSuccess:
    """Return the ASR of one patch over the images that were run.

    Raises:
        NothingToEvaluate: no image counts.
    """
    rows, which = seen(measurement, suite, number)
    return attack_success(
        measurement.clean[rows],
        measurement.patched[number][which],
        suite.labels[rows],
        suite.patches[number].facts.target,
    )


def shuffled(count: int) -> NDArray[np.int64]:
    """Return 0…count-1, int64 (count,), in an order that is the same everywhere and knows nothing
    of the images."""
    ranks = [hashlib.sha256(f"qadtr quick {index}".encode()).digest() for index in range(count)]
    return np.array(sorted(range(count), key=ranks.__getitem__), dtype=np.int64)


def _entries(patch: SuitePatch, count: int) -> NDArray[np.int64]:
    """For each image of the suite its entry in the patch set; UNSEEN where it has none."""
    entries = np.full(count, UNSEEN, dtype=np.int64)
    entries[patch.rows] = np.arange(len(patch.rows))
    return entries


def _gates(suite: Suite, thresholds: Mapping[str, Threshold]) -> dict[str, SequentialGate]:
    gates: dict[str, SequentialGate] = {}
    max_asr, min_clean = thresholds["max_asr"].value, thresholds["min_clean"].value
    for patch in suite.patches:
        if patch.facts.gated and max_asr is not None:
            name = f"max_asr of {patch.facts.name}"
            gates[name] = SequentialGate(name, max_asr, at_most=True)
    if gates and min_clean is not None:
        gates["min_clean"] = SequentialGate("min_clean", min_clean, at_most=False)
    return gates


def _decided(
    gates: Mapping[str, SequentialGate],
    suite: Suite,
    clean: Classes,
    patched: tuple[Classes, ...],
) -> bool:
    """Show every gate the counts so far; True when all passed or one failed."""
    if "min_clean" in gates:
        run = clean != UNSEEN
        gates["min_clean"].look(int((clean == suite.labels).sum()), int(run.sum()))
    for number, patch in enumerate(suite.patches):
        gate = gates.get(f"max_asr of {patch.facts.name}")
        if gate is None:
            continue
        which = np.flatnonzero(patched[number] != UNSEEN)
        rows = patch.rows[which]
        try:
            success = attack_success(
                clean[rows], patched[number][which], suite.labels[rows], patch.facts.target
            )
        except NothingToEvaluate:  # not yet
            continue
        gate.look(success.share["k"], success.share["n"])
    outcomes = {gate.outcome for gate in gates.values()}
    return Outcome.FAIL in outcomes or outcomes == {Outcome.PASS}
