"""Another tree of this project beside this one: a training step, the files' speed; and the start.

    git worktree add /tmp/before 50938e2^
    python -m benchmarks.beside --tree /tmp/before [--rounds 20] [--json FILE]

50938e2 is the commit that took the networks through `qadtr.quantize`; the tree above is the last
one before it.  Each tree trains in a process of its own, a step of one and a step of the other in
turn, the first of a pair by turns; a round is ten steps, two cycles of five bit-widths.  The files
that the trees export are run in this process in turn, and so are the commands whose start is
measured against `import torch`.  A figure is the median of the ratios within one round, so that a
busy machine slows both sides alike; the record states how busy it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from benchmarks.records import ROOT, parser_of, ratio, report
from benchmarks.speed import SLICE_S, onnxruntime_call, seconds_of
from benchmarks.training_step import STEPS
from deploy.core.errors import InputError
from deploy.core.scratch import Scratch
from training.record_types import Provenance
from training.validated import AtLeast1, NotNegative

NETWORK = "resnet20"
BITS = (8, 5, 4, 2)
BATCHES = (1, 16)
FILE_ROUNDS, START_ROUNDS = 60, 15

LEAST_STEP, LEAST_FILE, MOST_START = 0.95, 0.98, 0.3

STARTS: Mapping[str, Sequence[str]] = {
    "import torch": ("-c", "import torch"),
    "import qadtr": ("-c", "import qadtr"),
    "qadtr --help": ("-m", "qadtr", "--help"),
}
"""The first is what the others are held to."""


class Quartiles(TypedDict):
    """Of the ratios within each round."""

    median: NotNegative
    lower_quartile: NotNegative
    upper_quartile: NotNegative


class BesideRow(TypedDict):
    """One comparison."""

    row: str
    over: str
    """What it is held to."""
    ratio: Quartiles
    """Of speeds for steps and files (above 1, this tree is the quicker one), of seconds for
    starts."""
    wanted: str
    rounds: AtLeast1


class Beside(TypedDict):
    """What ``python -m benchmarks.beside`` measures."""

    benchmark: str
    network: str
    batch: AtLeast1
    """Of training."""
    threads: AtLeast1
    tree: str
    """Commit of the other tree."""
    cores: AtLeast1
    load_before: NotNegative
    """Processes that ran or waited for a core in the last minute; this benchmark takes one."""
    load_after: NotNegative
    rows: list[BesideRow]


class BesideRecord(Beside):
    """The record of ``python -m benchmarks.beside``."""

    provenance: Provenance


class Side:
    """A tree's process.

    Raises:
        InputError: it ended, or runs the code of another tree.
    """

    def __init__(self, tree: Path, folder: Path, network: str, batch: int) -> None:
        folder.mkdir()
        script = ROOT / "benchmarks" / "beside_side.py"
        words = [str(folder), network, str(batch), *map(str, BITS)]
        self._tree = tree
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script), *words],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if Path(self._answer()["tree"]) != tree:
            raise InputError(f"the process of {tree} runs the code of another tree")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise InputError(f"the process of {self._tree} failed; its error is above")
        return dict(json.loads(line))

    def step(self) -> float:
        """Take one; its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def end(self) -> None:
        """Let it end."""
        self._process.communicate()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a figure misses what is wanted of it."""
    parser = parser_of("beside", __doc__)
    parser.add_argument("--tree", type=Path, required=True, help="a checkout of another commit")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args(argv)
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2, or there are no quartiles")
    tree = arguments.tree.resolve()
    if not (tree / "training").is_dir():
        parser.error(f"--tree expects a checkout of this project, got {tree}")
    load_before = os.getloadavg()[0]
    rows = measure(tree, arguments.batch, arguments.rounds)
    record: Beside = {
        "benchmark": "beside",
        "network": NETWORK,
        "batch": arguments.batch,
        "threads": 1,
        "tree": _commit(tree),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "rows": rows,
    }
    report(record, arguments.json)
    return 0 if all(map(_met, rows)) else 1


def measure(tree: Path, batch: int, rounds: int) -> list[BesideRow]:
    """All rows: steps first, then files, then starts."""
    with Scratch() as folder:
        sides = [
            Side(where, folder / name, NETWORK, batch)
            for name, where in (("ours", ROOT), ("tree", tree))
        ]
        ours, theirs = in_turn([side.step for side in sides], rounds, STEPS)
        for side in sides:
            side.end()
        rows = [_row("training step", "tree", ratio(theirs, ours), f"≥ {LEAST_STEP}", rounds)]
        for bits in BITS:
            rows += _of_files(bits, [folder / name / f"{bits}.onnx" for name in ("ours", "tree")])
    return [*rows, *_of_starts()]


def in_turn(calls: Sequence[Callable[[], float]], rounds: int, steps: int) -> list[list[float]]:
    """Seconds of each call by round, each a sum of ``steps``; the calls take turns in being first.

    Example:
        >>> in_turn([lambda: 1.0, lambda: 2.0], rounds=2, steps=3)
        [[3.0, 3.0], [6.0, 6.0]]
    """
    taken = [[0.0] * rounds for _ in calls]
    for number in range(rounds):
        for step in range(steps):
            order = range(len(calls))
            for one in order if (number + step) % 2 == 0 else reversed(order):
                taken[one][number] += calls[one]()
    return taken


def _of_files(bits: int, paths: Sequence[Path]) -> list[BesideRow]:
    rows = []
    for batch in BATCHES:
        images = np.random.default_rng(0).integers(0, 256, (batch, 3, 32, 32)).astype(np.uint8)
        calls = [onnxruntime_call(path, images, 1) for path in paths]
        for call in calls:
            call()
        repeats = max(1, round(SLICE_S / max(1e-6, seconds_of(calls[0], 3))))
        ours, theirs = in_turn(
            [partial(seconds_of, call, repeats) for call in calls], FILE_ROUNDS, 1
        )
        name = f"{bits}-bit file, batch {batch}"
        wanted = f"≥ {LEAST_FILE}"
        rows.append(_row(name, "tree", ratio(theirs, ours), wanted, FILE_ROUNDS))
    return rows


def _of_starts() -> list[BesideRow]:
    base, *others = STARTS
    taken = in_turn([partial(_start, words) for words in STARTS.values()], START_ROUNDS, 1)
    seconds = dict(zip(STARTS, taken, strict=True))
    return [
        _row(one, base, ratio(seconds[one], seconds[base]), f"< {MOST_START}", START_ROUNDS)
        for one in others
    ]


def _start(words: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _row(row: str, over: str, found: Mapping[str, float], wanted: str, rounds: int) -> BesideRow:
    return {
        "row": row,
        "over": over,
        "ratio": Quartiles(**found),  # type: ignore[typeddict-item]
        "wanted": wanted,
        "rounds": rounds,
    }


def _met(row: BesideRow) -> bool:
    sign, number = row["wanted"].split()
    found = row["ratio"]["median"]
    return found >= float(number) if sign == "≥" else found < float(number)


def _commit(tree: Path) -> str:
    words = ["git", "-C", str(tree), "rev-parse", "HEAD"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()[:12]


if __name__ == "__main__":
    sys.exit(main())
