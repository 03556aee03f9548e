"""Universal patch optimization beside ART's ``AdversarialPatchPyTorch``, as ratios.

    python -m benchmarks.patch_attacks --data DIR --art-python ART/bin/python [--json FILE]

ART's class imports torchvision, which does not import beside a CPU build of torch, so it runs in an
environment of its own, and so does our side, with the same torch. On x86-64, some 6 GB:

    python3.11 -m venv ART
    ART/bin/pip install torch==2.14.1 torchvision==0.29.1 adversarial-robustness-toolbox==1.20.1 \
        brevitas==0.13.4 onnxruntime safetensors pillow tqdm

The same network, images, number of steps, images a step and law of the places; one thread. Each
side is a process, and in each round they take 20 steps in turn, so that a busy machine slows all of
them alike; a figure is the median over rounds of the ratio within one. Sides:

* ``ours``: ``eval.attacks.gap`` as `qadtr patch` runs it (with its setting of the allocator);
* ``adam``: ART with its own defaults;
* ``pgd``: ART with its signed steps, and our setting of the allocator lent to it.

All patches are then judged alike, in bytes on test images at the same places. Last, ART pastes its
patch and counts successes by itself; that is compared with our figures image for image.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.patch_attacks_rows import SIDES
from benchmarks.ratios import ratio
from deploy.core.errors import InputError
from deploy.core.files import read_json, read_npz, write_json
from deploy.core.records import provenance

PLACEMENTS = ("centre", "random", "turned")
"""Fixed; anywhere; anywhere, turned by up to 22.5° and scaled by 0.8 to 1.2."""
SIZE = 8
BATCH = 128
STEPS_A_ROUND = 20
ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0 whatever the figures are."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.patch_attacks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10")
    parser.add_argument(
        "--run", type=Path, default=ROOT / "results/cifar10-resnet8-cpu/plain", help="the network's"
    )
    parser.add_argument(
        "--art-python", type=Path, help="Python of ART's environment (default: this one)"
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--images", type=int, default=2000, help="test images to judge on")
    parser.add_argument("--target", type=int, help="class to cause (default: any wrong one)")
    parser.add_argument("--placements", nargs="+", default=list(PLACEMENTS), choices=PLACEMENTS)
    parser.add_argument("--json", type=Path, help="also write the record there")
    arguments = parser.parse_args(argv)
    python = str(arguments.art_python or sys.executable)
    asked = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True)
    if asked.returncode:
        why = (asked.stderr.strip().splitlines() or ["it does not run"])[-1]
        raise SystemExit(f"{python} is no environment for this ({why}); --help says what it needs")
    with tempfile.TemporaryDirectory() as name:
        rows = [
            _measure(python, Path(name), placement, arguments) for placement in arguments.placements
        ]
    record = {
        "benchmark": "patch-attacks",
        "network": "resnet8 (float)",
        "batch": BATCH,
        "steps": arguments.rounds * STEPS_A_ROUND,
        "rounds": arguments.rounds,
        "size_px": SIZE,
        "area_share": SIZE * SIZE / 1024,
        "target": arguments.target,
        "versions": asked.stdout.strip(),
        "rows": rows,
    }
    print(_text(record))
    if arguments.json:
        write_json(arguments.json, {**record, "provenance": provenance(repository=ROOT)})
    return 0


_VERSIONS = (
    "import art, brevitas, torch, torchvision; "
    "print(f'torch {torch.__version__}, torchvision {torchvision.__version__}, "
    "ART {art.__version__}')"
)


class _Side:
    """One side's process, which takes a round of steps when it is told to."""

    def __init__(self, words: list[str], out: Path) -> None:
        self.out = out
        self._process = subprocess.Popen(
            [*words, str(out)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answer("ready")

    def answer(self, expected: str) -> list[str]:
        """The words of its next line behind the expected one."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            words = line.split()
            if words[:1] == [expected]:
                return words[1:]
        raise InputError(f"a side ended before it was {expected}; its error is above")

    def round(self) -> float:
        """Let it take its steps; their seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self.answer("took")[0])

    def finish(self) -> dict[str, Any]:
        """The arrays that it wrote when all rounds were done."""
        self.answer("done")
        self._process.communicate()
        return dict(read_npz(self.out))


def _measure(
    python: str, folder: Path, placement: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    words = [python, "-m", "benchmarks.patch_attack_side", placement]
    words += [str(arguments.run), str(arguments.data), str(arguments.rounds)]
    words += [str(arguments.images), str(arguments.target)]
    sides = {side: _Side([*words, side], folder / f"{placement}-{side}.npz") for side in SIDES}
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side, process in sides.items():
            taken[side].append(process.round())
    found = {side: process.finish() for side, process in sides.items()}
    images = BATCH * STEPS_A_ROUND
    row: dict[str, Any] = {
        "placement": placement,
        "images_per_s": {
            side: images / statistics.median(seconds) for side, seconds in taken.items()
        },
        "adam_over_ours": ratio(taken["adam"], taken["ours"]),
        "pgd_over_ours": ratio(taken["pgd"], taken["ours"]),
        "asr": {side: read_json(folder / f"{placement}-{side}.json") for side in SIDES},
    }
    agreements = [found[side] for side in ("adam", "pgd")]
    row["agreement"] = {
        "images": int(sum(len(one["ours"]) for one in agreements)),
        "pixels_that_differ": int(sum(one["pixels_that_differ"] for one in agreements)),
        "successes_that_differ": int(
            sum(np.count_nonzero(one["ours"] != one["theirs"]) for one in agreements)
        ),
    }
    return row


def _text(record: dict[str, Any]) -> str:
    lines = [
        (
            f"{record['network']}, {SIZE}×{SIZE} px, {record['steps']} steps of {BATCH} images, "
            f"one thread, {record['versions']}"
        ),
        "places   ART (Adam) / ours     ART (PGD) / ours      ASR ours   Adam    PGD",
    ]
    for row in record["rows"]:
        ratios = [
            f"{row[key]['median']:.2f} "
            f"({row[key]['lower_quartile']:.2f}–{row[key]['upper_quartile']:.2f})"
            for key in ("adam_over_ours", "pgd_over_ours")
        ]
        rates = [f"{100 * row['asr'][side]['value']:6.1f}%" for side in SIDES]
        lines.append(f"{row['placement']:8} {ratios[0]:20}  {ratios[1]:20}  {'  '.join(rates)}")
        agreement = row["agreement"]
        lines.append(
            f"         ART's own count against ours, {agreement['images']:,} images: "
            f"{agreement['successes_that_differ']} successes and "
            f"{agreement['pixels_that_differ']} pixels differ"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
