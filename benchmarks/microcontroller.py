"""A ``.tflite`` file in tflite-micro's interpreter, a microcontroller's kernels on this machine.

    python -m benchmarks.microcontroller runs/NAME/export/litert-4.tflite

prints the RAM that its arena takes and the flash that the file takes; the kernels' own code, some
tens of kilobytes on a Cortex-M, comes on top and depends on the build.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tflite_micro.python.tflite_micro import runtime

from benchmarks.records import parser_of
from deploy.core.errors import InputError

ARENA_BYTES = 64 << 20
"""Given to the interpreter, which says how much of it is taken."""

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


def main(argv: Sequence[str] | None = None) -> int:
    """Print RAM and flash of each file."""
    parser = parser_of("microcontroller", __doc__, json=False)
    parser.add_argument("models", type=Path, nargs="+", metavar="FILE.tflite")
    for model in parser.parse_args(argv).models:
        height, width, channels = _shape(model)
        _, ram = run_micro(model, np.zeros((1, channels, height, width), np.uint8))
        flash = model.stat().st_size
        print(f"{model}: RAM {ram:,} bytes (arena), flash {flash:,} bytes (file)")
    return 0


def _shape(model: Path) -> tuple[int, int, int]:
    interpreter: Any = runtime.Interpreter.from_file(str(model), arena_size=ARENA_BYTES)
    _, height, width, channels = (int(n) for n in interpreter.get_input_details(0)["shape"])
    return height, width, channels


if __name__ == "__main__":
    raise SystemExit(main())
