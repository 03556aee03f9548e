"""Run a suite on an engine: the whole suite, or only as much as the thresholds need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..core.engine_protocol import Engine
from ..core.errors import NothingToEvaluate
from ..core.model_engine import run_all
from ..core.patch_set import random_floor
from ..core.success import AttackSuccess, attack_success
from .evidence import LEAST_SHARE, Counted, changed_pixels, classes_check
from .gate import Check, Outcome, drift_at_most, or_undecided, share_at_least, share_at_most
from .golden import logits_bytes
from .sequential import SequentialGate
from .suite import Classes, Suite, SuitePatch, paste_some
from .thresholds import COMMAND_LINE, Threshold

UNSEEN = -1
"""Stands for the class of an image that was not run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """Predictions of one engine.

    Attributes:
        clean: int64 N, without a patch; UNSEEN where the image was not run.
        patched: for each patch int64 M, with it.
        floor: for each patch int64 M, with noise of its size in its places.
        changed: for each patch int64 M, pixels that it visibly changes.
        unchanged: for each patch bool M, whether these are too few for the image to count.
        gates: of a quick run, by the name of the check; empty for a full one.
        clean_logits_sha256: of the logits without a patch, all images in the suite's order; None
            for a quick run.
    """

    clean: Classes
    patched: tuple[Classes, ...]
    floor: tuple[Classes, ...]
    changed: tuple[Classes, ...]
    unchanged: tuple[NDArray[np.bool_], ...]
    gates: Mapping[str, SequentialGate]
    clean_logits_sha256: str | None

    @property
    def images_used(self) -> int:
        """Images that were run."""
        return int((self.clean != UNSEEN).sum())

    @property
    def complete(self) -> bool:
        """Whether all images were run."""
        return self.images_used == len(self.clean)


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
        batch_size: images per call.
        progress: called after each batch with the number of finished images.

    Raises:
        InputError: the engine fails or a patch does not fit.
    """
    count = len(suite.images)
    order = shuffled(suite) if quick else np.arange(count, dtype=np.int64)
    clean = np.full(count, UNSEEN, dtype=np.int64)
    patched = tuple(np.full(len(patch.rows), UNSEEN, dtype=np.int64) for patch in suite.patches)
    floor, changed = (tuple(values.copy() for values in patched) for _ in range(2))
    unchanged = tuple(np.zeros(len(patch.rows), dtype=np.bool_) for patch in suite.patches)
    least = [patch.least_changed(suite.images) for patch in suite.patches]
    noise = [
        random_floor(patch.patch_set, np.random.default_rng([floor_seed, number]))
        for number, patch in enumerate(suite.patches)
    ]
    entry_of = [_entries(patch, count) for patch in suite.patches]
    gates = _gates(suite, thresholds) if quick else {}
    found = Measurement(
        clean=clean,
        patched=patched,
        floor=floor,
        changed=changed,
        unchanged=unchanged,
        gates=gates,
        clean_logits_sha256=None,
    )
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
                own = suite.images[patch.rows[which]]
                pasted = patch.paste(suite.images, which)
                patched[number][which] = engine.predict(pasted, batch_size)
                changed[number][which] = changed_pixels(own, pasted)
                unchanged[number][which] = changed[number][which] < least[number][which]
                floor[number][which] = engine.predict(
                    paste_some(noise[number], own, which), batch_size
                )
        progress(min(start + batch_size, count), count)
        if gates and _decided(found, suite, thresholds):
            break
    return replace(found, clean_logits_sha256=None if quick else digest.hexdigest())


def asr_check_name(patch: str) -> str:
    """The name of the check that compares a patch's ASR on this device with ``max_asr``."""
    return f"max_asr of {patch}"


def drift_check_name(patch: str) -> str:
    """The name of the check that compares the ASR's distance from the lab's with ``max_drift``."""
    return f"max_drift of {patch}"


def checks_of(
    measurement: Measurement, suite: Suite, thresholds: Mapping[str, Threshold]
) -> list[Check]:
    """Return the check of each gate on a measurement; one for which no image counts is undecided.

    Raises:
        NothingToEvaluate: the clean accuracy has no image.
    """
    checks = []
    for number, patch in enumerate(suite.patches):
        if not patch.facts.gated:
            continue
        max_asr, max_drift = thresholds["max_asr"].value, thresholds["max_drift"].value
        if max_asr is not None:
            these = counted(measurement, suite, number, thresholds)
            ask = partial(_asr_check, measurement, these, patch, max_asr)
            checks.append(or_undecided(asr_check_name(patch.facts.name), max_asr, ask))
        if max_drift is not None:
            name = drift_check_name(patch.facts.name)
            drifts = partial(_drift_check, measurement, suite, number, name, max_drift)
            checks.append(or_undecided(name, max_drift, drifts))
    min_clean = thresholds["min_clean"].value
    if checks and min_clean is not None:
        if "min_clean" in measurement.gates:
            checks.append(measurement.gates["min_clean"].check())
        else:
            checks.append(share_at_least("min_clean", min_clean, *_right(measurement, suite)))
    run = measurement.clean != UNSEEN
    if measurement.gates and measurement.complete:
        checks = [_without_quick(check, measurement.gates) for check in checks]
    if checks:
        checks.append(classes_check(measurement.clean[run], suite.labels[run], suite.classes))
    return checks


def _asr_check(
    measurement: Measurement, these: Counted, patch: SuitePatch, max_asr: float
) -> Check:
    name = asr_check_name(patch.facts.name)
    these.require_any(name)
    if name in measurement.gates:
        return these.held(measurement.gates[name].check())
    return these.held(share_at_most(name, max_asr, these.k, these.n))


def _drift_check(
    measurement: Measurement, suite: Suite, number: int, name: str, max_drift: float
) -> Check:
    if not measurement.complete:
        return _drift_of_some(measurement.gates[name])
    here, lab = (one.share for one in _here_and_lab(measurement, suite, number))
    return drift_at_most(name, max_drift, here["value"], lab["value"], here["n"])


def _drift_of_some(gate: SequentialGate) -> Check:
    """The check of the drift over all images, from the images that were run."""
    check = gate.check()
    said = check.reason
    if check.outcome is not Outcome.PASS:
        said = "they are too few to show how far that moves the ASR"
    return replace(
        check, reason=f"images with another outcome on this machine than in the lab: {said}"
    )


def _here_and_lab(
    measurement: Measurement, suite: Suite, number: int
) -> tuple[AttackSuccess, AttackSuccess]:
    """The success of one patch over the images that were run, on this engine and in the lab.

    Raises:
        NothingToEvaluate: no image counts.
    """
    rows, which = seen(measurement, suite, number)
    patch = suite.patches[number]
    lab = attack_success(
        suite.lab_clean[rows], patch.lab[which], suite.labels[rows], patch.facts.target
    )
    return success_of(measurement, suite, number), lab


def departures(here: AttackSuccess, lab: AttackSuccess) -> tuple[int, int]:
    """Of the images that count here or in the lab: those whose outcome differs, D, and all, C + D.

    The drift is at most the share D / (C + D). On C images both have the same outcome, with w wins.
    Of the D images let a count here and b in the lab: the ASRs are (w + x) / (C + a) and
    (w + y) / (C + b) with 0 ≤ x ≤ a and 0 ≤ y ≤ b, at most a / (C + a) or b / (C + b) apart,
    neither of which is over D / (C + D).
    """
    either = here.eligible | lab.eligible
    differ = (here.eligible != lab.eligible) | (here.success != lab.success)
    return int(differ.sum()), int(either.sum())


def _without_quick(check: Check, gates: Mapping[str, SequentialGate]) -> Check:
    """The check with advice to run without ``--quick``, where it is undecided after all images: the
    bounds of a quick run are wider because of its many looks, so one look at all images may decide.
    """
    if check.name not in gates or check.outcome is not Outcome.UNDECIDED:
        return check
    advice = "; all images were run; run without --quick, whose single look has narrower bounds"
    return replace(check, reason=check.reason + advice)


def counted(
    measurement: Measurement, suite: Suite, number: int, thresholds: Mapping[str, Threshold]
) -> Counted:
    """Return how many of the images that were run so far count for one patch's gate."""
    patch = suite.patches[number]
    rows, which = seen(measurement, suite, number)
    clean, labels = measurement.clean[rows], suite.labels[rows]
    eligible, patched = clean == labels, measurement.patched[number][which]
    won = moved = patched != clean
    needed, min_clean = LEAST_SHARE, thresholds["min_clean"]
    if min_clean.origin == COMMAND_LINE and min_clean.value is not None:
        needed = min(needed, min_clean.value)  # whoever asks for the gate expects no more
    if patch.facts.target is not None:
        eligible &= labels != patch.facts.target
        won = moved & (patched == patch.facts.target)
        needed *= 1 - 1 / len(suite.classes)
    unchanged, repeated = measurement.unchanged[number][which], ~suite.distinct[rows]
    counts = eligible & ~unchanged & ~repeated
    return Counted(
        k=int((won & counts).sum()),
        n=int(counts.sum()),
        images=measurement.images_used,
        untried=measurement.images_used - len(rows),
        repeated=int(repeated.sum()),
        unchanged=int(unchanged.sum()),
        moved=int((moved & counts).sum()),
        target=None if patch.facts.target is None else suite.classes[patch.facts.target],
        needed=needed,
    )


def _right(measurement: Measurement, suite: Suite) -> tuple[int, int]:
    """Of the distinct images that were run, those that are right without a patch, and all."""
    run = (measurement.clean != UNSEEN) & suite.distinct
    return int((measurement.clean == suite.labels)[run].sum()), int(run.sum())


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


def shuffled(suite: Suite) -> NDArray[np.int64]:
    """Return the suite's rows, int64 (count,), in an order that is the same everywhere.

    It follows from the bundle's hash and each image's bytes: the maker of a bundle cannot sort its
    images for an order known in advance.
    """
    key = bytes.fromhex(suite.manifest_sha256)
    ranks = [hashlib.sha256(key + image.tobytes()).digest() for image in suite.images]
    return np.array(sorted(range(len(ranks)), key=ranks.__getitem__), dtype=np.int64)


def _entries(patch: SuitePatch, count: int) -> NDArray[np.int64]:
    """For each image of the suite its entry in the patch set; UNSEEN where it has none."""
    entries = np.full(count, UNSEEN, dtype=np.int64)
    entries[patch.rows] = np.arange(len(patch.rows))
    return entries


def _gates(suite: Suite, thresholds: Mapping[str, Threshold]) -> dict[str, SequentialGate]:
    gates: dict[str, SequentialGate] = {}
    max_asr, max_drift, min_clean = (
        thresholds[name].value for name in ("max_asr", "max_drift", "min_clean")
    )
    for patch in suite.patches:
        if patch.facts.gated and max_asr is not None:
            name = asr_check_name(patch.facts.name)
            gates[name] = SequentialGate(name, max_asr, at_most=True)
        if patch.facts.gated and max_drift is not None:
            name = drift_check_name(patch.facts.name)
            gates[name] = SequentialGate(name, max_drift, at_most=True, may_fail=False)
    if gates and min_clean is not None:
        gates["min_clean"] = SequentialGate("min_clean", min_clean, at_most=False)
    return gates


def _decided(found: Measurement, suite: Suite, thresholds: Mapping[str, Threshold]) -> bool:
    """Show every gate the counts so far; True when all passed or one failed."""
    gates, enough = found.gates, True
    if "min_clean" in gates:
        gates["min_clean"].look(*_right(found, suite))
    for number, patch in enumerate(suite.patches):
        gate = gates.get(asr_check_name(patch.facts.name))
        if gate is not None:
            these = counted(found, suite, number, thresholds)
            gate.look(these.k, these.n)
            enough &= these.decides(gate.threshold)
        drift = gates.get(drift_check_name(patch.facts.name))
        if drift is not None:
            with suppress(NothingToEvaluate):
                drift.look(*departures(*_here_and_lab(found, suite, number)))
    outcomes = {gate.outcome for gate in gates.values()}
    return Outcome.FAIL in outcomes or (enough and outcomes <= {Outcome.PASS})
