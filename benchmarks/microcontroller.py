"""A ``.tflite`` file in tflite-micro's interpreter, a microcontroller's kernels on this machine.

    python -m benchmarks.microcontroller runs/NAME/export/litert-4.tflite

prints the RAM that its arena takes and the flash that the file takes; the kernels' own code, some
tens of kilobytes on a Cortex-M, comes on top and depends on the build.

    python -m benchmarks.microcontroller --cifar10 DIR [--images 500] [--json FILE] FILE.tflite …

adds what the numpy references say of two builds, tflite-micro's default, which rounds each sum
twice, and that with ``TFLITE_SINGLE_ROUNDING=1``: predictions that are others than XNNPACK's, and
by operator the codes of an image that begin to be others, where both are given the same inputs.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tflite_micro.python.tflite_micro import runtime

from benchmarks.records import parser_of, report
from deploy.core.errors import InputError
from deploy.core.files import sha256_of
from export.reference import LiteRtReference
from export.reference.litert_arithmetic import MICROCONTROLLER, SINGLE_ROUNDING, XNNPACK
from training.data import load_images
from training.data.subset import chosen_indices

ARENA_BYTES = 64 << 20
"""Given to the interpreter, which says how much of it is taken."""

BUILDS = {MICROCONTROLLER: "rounds twice", SINGLE_ROUNDING: "rounds once"}
"""tflite-micro's two builds, by the name of their arithmetic."""

ROUNDING = ("ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "MEAN", "MUL")
"""Operators that make codes of sums; the others move codes."""

BATCH = 20
"""Images at once in numpy."""

SIGNED = 128
"""Byte that stands for 0 in signed 8-bit codes, the largest one of 8-bit codes."""

_TOTAL = re.compile(rb"Arena allocation total (\d+) bytes")


def run_micro(model: Path, images: NDArray[np.uint8]) -> tuple[NDArray[np.int16], int]:
    """Run images one by one.

    Args:
        model: the file.
        images: uint8 N×C×H×W, at least one.

    Returns:
        int16 N×classes, the logits' codes; and the bytes of the arena that are taken.

    Raises:
        InputError: the interpreter refuses the file.
    """
    try:
        interpreter: Any = runtime.Interpreter.from_file(str(model), arena_size=ARENA_BYTES)
        logits = []
        for codes in (images.transpose(0, 2, 3, 1) ^ np.uint8(128)).view(np.int8):
            interpreter.set_input(np.ascontiguousarray(codes[None]), 0)
            interpreter.invoke()
            logits.append(interpreter.get_output(0)[0])
    except (RuntimeError, ValueError) as error:
        raise InputError(f"tflite-micro does not run {model}: {error}") from error
    return np.stack(logits), _arena_bytes(interpreter)


def _arena_bytes(interpreter: Any) -> int:
    """What the interpreter prints of itself, on the process's own error stream."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        try:
            os.dup2(caught.fileno(), 2)
            interpreter.print_allocations()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        caught.seek(0)
        found = _TOTAL.search(caught.read())
    if found is None:
        raise InputError("tflite-micro does not say what its arena takes")
    return int(found[1])


def departures(
    model: Path, images: NDArray[np.uint8], arithmetic: str = MICROCONTROLLER
) -> dict[str, tuple[int, int]]:
    """How many codes each operator gives otherwise than in XNNPACK's arithmetic, and of how many.

    Both arithmetics compute each operator from the inputs that XNNPACK's gave.

    Args:
        model: the file.
        images: uint8 N×C×H×W, at least one; all are computed at once.
        arithmetic: one of :data:`export.reference.litert.ARITHMETICS`.

    Returns:
        (different, all) by operator of :data:`ROUNDING`; that on the image, and those that give
        codes narrower than 8 bits, by themselves.
    """
    xnnpack = LiteRtReference(model, batch_size=len(images))
    micro = LiteRtReference(model, batch_size=len(images), arithmetic=arithmetic)
    zeros, first = micro.zero_points, micro.layers[0].output
    names = {
        layer.output: layer.operator
        + (" to narrow codes" if zeros.get(layer.output, 0) > SIGNED else "")
        + (" of the image" if layer.output == first else "")
        for layer in micro.layers
    }
    expected = xnnpack.codes(images)
    different, every = Counter[str](), Counter[str]()

    def exchanged(tensor: str, codes: NDArray[Any]) -> NDArray[Any]:
        if names[tensor].split()[0] in ROUNDING:
            different[names[tensor]] += int(np.count_nonzero(codes != expected[tensor]))
            every[names[tensor]] += codes.size
        return expected[tensor]

    for _ in micro.batches(images, exchanged):
        pass
    return {name: (different[name], count) for name, count in every.items()}


def _row(model: Path, images: NDArray[np.uint8], arithmetic: str) -> dict[str, Any]:
    different = Counter[str]()
    for start in range(0, len(images), BATCH):
        for name, (count, _) in departures(
            model, images[start : start + BATCH], arithmetic
        ).items():
            different[name] += count
    ours, theirs = (
        LiteRtReference(model, arithmetic=one).run(images).argmax(axis=1)
        for one in (arithmetic, XNNPACK)
    )
    return {
        "row": model.stem,
        "way": BUILDS[arithmetic],
        "sha256": sha256_of(model),
        "predictions_that_differ": int(np.count_nonzero(ours != theirs)),
        "codes_in": {name: count / len(images) for name, count in different.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print RAM and flash of each file, and where its codes depart."""
    parser = parser_of("microcontroller", __doc__)
    parser.add_argument("models", type=Path, nargs="+", metavar="FILE.tflite")
    parser.add_argument("--cifar10", type=Path, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--images", type=int, default=500, help="of its test set")
    arguments = parser.parse_args(argv)
    for model in arguments.models:
        height, width, channels = _shape(model)
        _, ram = run_micro(model, np.zeros((1, channels, height, width), np.uint8))
        flash = model.stat().st_size
        print(f"{model}: RAM {ram:,} bytes (arena), flash {flash:,} bytes (file)")
    if arguments.cifar10 is not None:
        data = load_images("cifar10", arguments.cifar10, "test")
        images = data.images[chosen_indices(len(data), arguments.images)]
        rows = [_row(model, images, build) for model in arguments.models for build in BUILDS]
        record = {"benchmark": "microcontroller", "images": len(images), "rows": rows}
        report(record, arguments.json)
    return 0


def _shape(model: Path) -> tuple[int, int, int]:
    interpreter: Any = runtime.Interpreter.from_file(str(model), arena_size=ARENA_BYTES)
    _, height, width, channels = (int(n) for n in interpreter.get_input_details(0)["shape"])
    return height, width, channels


if __name__ == "__main__":
    raise SystemExit(main())
