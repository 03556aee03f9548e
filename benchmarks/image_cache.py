"""A training whose images are mapped from disk (``--cache``) beside one that holds them in memory.

    python -m benchmarks.image_cache --data DIR [--size 64 224] [--json FILE]

Each side is a process of its own, so that its memory is its own; they take their steps in turn, a
round at a time. Memory is the process's anonymous pages, after each round: what is mapped from a
file belongs to the kernel, which shares it among processes and takes it back when it needs room.
After the last round both sides must hold the same weights, or it is an error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.ratios import ratio
from deploy.core.errors import InputError
from deploy.core.files import write_json
from deploy.core.records import provenance

ROOT = Path(__file__).resolve().parents[1]
MEMORY, DISK = "memory", "disk"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Network, side of the images in px, images a step, steps a round, batch of each."""

    network: str
    size: int
    batch: int
    steps: int


CASES = (
    Case(network="resnet18", size=64, batch=64, steps=2),
    Case(network="resnet18", size=224, batch=16, steps=1),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.image_cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of train/CLASS/IMAGE")
    sizes = [case.size for case in CASES]
    parser.add_argument("--size", type=int, nargs="+", choices=sizes, default=sizes)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path, help="also write the record there")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2, or there are no quartiles")
    rows = [
        measure(case, arguments.data, arguments.rounds)
        for case in CASES
        if case.size in arguments.size
    ]
    record = {
        "benchmark": "image-cache",
        "data": arguments.data.resolve().name,
        "rounds": arguments.rounds,
        "rows": rows,
        "provenance": provenance(repository=ROOT),
    }
    for row in rows:
        print(json.dumps(row, indent=2))
    if arguments.json:
        write_json(arguments.json, record)
    return 0


def measure(case: Case, data: Path, rounds: int) -> dict[str, Any]:
    """Both sides of one case.

    Raises:
        InputError: a side failed, or their weights differ.
    """
    seconds: dict[str, list[float]] = {MEMORY: [], DISK: []}
    with tempfile.TemporaryDirectory() as folder:
        # The first one decodes, the second one finds what it decoded.
        _Side(case, data, Path(folder), DISK).finish()
        sides = {name: _Side(case, data, Path(folder), name) for name in seconds}
        for _ in range(rounds):
            for name, side in sides.items():
                seconds[name].append(side.round())
        ends = {name: side.finish() for name, side in sides.items()}
        starts = {name: side.start for name, side in sides.items()}
    if ends[MEMORY]["weights"] != ends[DISK]["weights"]:
        raise InputError("the two sides hold different weights: a batch was not read as it is")
    images = case.batch * case.steps
    return {
        **asdict(case),
        "images": starts[MEMORY]["images"],
        "image_bytes": starts[MEMORY]["image_bytes"],
        "read_s": {name: start["read_s"] for name, start in starts.items()},
        "bytes_for_images": {name: start["bytes_for_images"] for name, start in starts.items()},
        "peak_bytes": {name: end["peak_bytes"] for name, end in ends.items()},
        "peak_disk_over_memory": ends[DISK]["peak_bytes"] / ends[MEMORY]["peak_bytes"],
        "images_per_s": {name: images / statistics.median(s) for name, s in seconds.items()},
        "speed_disk_over_memory": ratio(seconds[MEMORY], seconds[DISK]),
    }


class _Side:
    """One side's process."""

    def __init__(self, case: Case, data: Path, cache: Path, name: str) -> None:
        words = ["-m", "benchmarks.image_cache_side", case.network, str(case.size)]
        words += [str(case.batch), str(case.steps), str(data)]
        if name == DISK:
            words.append(str(cache))
        self._process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.start = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise InputError("a side of the benchmark failed; its error is above")
        return dict(json.loads(line))

    def round(self) -> float:
        """Let it take its steps; their seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def finish(self) -> dict[str, Any]:
        """End it; its largest memory and the digest of its weights."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        end = self._answer()
        self._process.wait()
        return end


if __name__ == "__main__":
    raise SystemExit(main())
