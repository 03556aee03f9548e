"""Which engine of this machine is the quickest for a run's exported files, from one timed pass.

The engines take turns, a slice of time each, so that whatever else the machine does slows all of
them alike; what is compared are the times within one turn.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from deploy.core.bit_widths import FLOAT
from deploy.core.engine_protocol import Engine
from deploy.core.errors import EngineUnavailable, QadtrError, UsageError
from deploy.core.latency import measure_latency
from deploy.core.model_contents import suffix_of, target_of
from deploy.core.text import one_line
from deploy.engine import ENGINES, open_engine
from qadtr.diagnosis import Finding
from training.run_folder import RunFolder

SLICE_S = 0.02
"""How long each engine runs in a turn, one batch at least."""

MOST_TURNS, LEAST_TURNS = 15, 5

LONGEST_S = 6.0
"""After this time no further turn begins, beyond the least number."""


class Ratio(NamedTuple):
    """How many times as long another engine takes: quartiles of the turns."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Quickest:
    """What one pass over the files of one bit-width found.

    Attributes:
        bits: of the files.
        threads: of each engine.
        image_ms: median time of an image in milliseconds, by engine, the quickest first.
        ratios: of each other engine that ran, against the quickest.
        refused: engines that have a file and do not run it here, with the reason.
        without_file: engines whose target is not exported at these bits.
        turns: of each engine.
    """

    bits: int
    threads: int
    image_ms: Mapping[str, float]
    ratios: Mapping[str, Ratio]
    refused: Mapping[str, str]
    without_file: tuple[str, ...]
    turns: int

    @property
    def engine(self) -> str:
        """The quickest."""
        return next(iter(self.image_ms))

    def sentence(self) -> str:
        """The quickest, and by how much."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        text = f"{self.engine}, {self.image_ms[self.engine]:.3g} ms an image ({threads}, batch 1)"
        others = [_beside(name, ratio) for name, ratio in self.ratios.items()]
        if not others:
            return f"{text}; no other engine on this machine runs a file of this run"
        return f"{text}: {', '.join(others)}; quartiles of {self.turns} turns"


def quickest_findings(run: RunFolder, bits: int, *, threads: int = 1) -> list[Finding]:
    """The quickest engine at one bit-width, and why others were not timed, for `qadtr doctor`.

    Arguments and errors are those of :func:`quickest_engine`.
    """
    found = quickest_engine(run, bits, threads=threads)
    findings = [Finding("ok", f"quickest, {bits} bits", found.sentence())]
    findings += [
        Finding("note", "not timed", f"{name}: {reason}") for name, reason in found.refused.items()
    ]
    if found.without_file and not run.adopted:
        targets = sorted({target_of(name) for name in found.without_file})
        command = run.command("export", "--bits", str(bits), "--target", *targets)
        text = f"{', '.join(found.without_file)}: no file at {bits} bits; {command} makes it"
        findings.append(Finding("note", "not timed", text))
    return findings


def _beside(name: str, ratio: Ratio) -> str:
    between = f"({ratio.low:.2f} to {ratio.high:.2f})"
    if ratio.low <= 1:
        return f"no faster than {name} {between}"
    return f"{ratio.middle:.2f} times as fast as {name} {between}"


def exported_bit_widths(run: RunFolder) -> tuple[int, ...]:
    """The bit-widths at which any engine has an integer file, or the adopted one, widest first.

    Raises:
        InputError: there is none.
    """
    there = {bits for name in ENGINES for bits in run.bit_widths_with_file(name)}
    chosen = tuple(bits for bits in run.bit_widths if bits in there and _counts(run, bits))
    return chosen or run.exported([bits for bits in run.bit_widths if _counts(run, bits)])


def _counts(run: RunFolder, bits: int) -> bool:
    return run.adopted or bits != FLOAT


def quickest_engine(run: RunFolder, bits: int, *, threads: int = 1) -> Quickest:
    """Time every engine that has a file of ``run`` at ``bits`` and runs it here, batch 1.

    Args:
        run: with exported files.
        bits: of the files.
        threads: of each engine.

    Raises:
        InputError: no file at these bits.
        EngineUnavailable: no engine runs any of them; the message states why for each.
        UsageError: a number of threads that no engine takes.

    Example:
        >>> quickest_engine(RunFolder.open(Path("runs/a")), 4).engine  # doctest: +SKIP
        'onnxruntime'
    """
    run.chosen_bit_widths([bits])
    paths = {name: run.model_file(bits, name) for name in ENGINES}
    files = {
        name: path
        for name, path in paths.items()
        if path.suffix == suffix_of(name) and path.is_file()
    }
    if not files:
        run.exported([bits])
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name, path in files.items():
            try:
                engines[name] = stack.enter_context(open_engine(name, path, threads=threads))
            except UsageError:
                raise
            except QadtrError as error:
                refused[name] = one_line(str(error))
        if not engines:
            told = "; ".join(f"{name}: {why}" for name, why in refused.items())
            raise EngineUnavailable(
                f"no engine on this machine runs a {bits}-bit file of {run.path}: {told}"
            )
        turns = _turns(engines)
    middle = {name: float(np.median(taken)) for name, taken in turns.items()}
    order = sorted(engines, key=middle.__getitem__)
    best = turns[order[0]]
    return Quickest(
        bits=bits,
        threads=threads,
        image_ms={name: middle[name] for name in order},
        ratios={
            name: Ratio(*map(float, np.percentile(turns[name] / best, [25, 50, 75])))
            for name in order[1:]
        },
        refused=refused,
        without_file=tuple(name for name in sorted(ENGINES) if name not in files),
        turns=len(best),
    )


def _turns(engines: Mapping[str, Engine]) -> dict[str, np.ndarray]:
    """Milliseconds an image of each engine in each turn."""
    generator = np.random.default_rng(0)
    images = {
        name: generator.integers(0, 256, (engine.batch_size or 1, *engine.input_shape), np.uint8)
        for name, engine in engines.items()
    }

    def image_ms(name: str, repeats: int) -> float:
        size = len(images[name])
        found = measure_latency(
            engines[name], images[name], batch_size=size, repeats=repeats, warmup=1
        )
        return found.p50_ms / size

    repeats = {
        name: max(1, round(1e3 * SLICE_S / (image_ms(name, 3) * len(images[name]))))
        for name in engines
    }
    taken: dict[str, list[float]] = {name: [] for name in engines}
    start = time.perf_counter()
    for turn in range(MOST_TURNS):
        if turn >= LEAST_TURNS and time.perf_counter() - start > LONGEST_S:
            break
        for name in engines:
            taken[name].append(image_ms(name, repeats[name]))
    return {name: np.array(times) for name, times in taken.items()}
