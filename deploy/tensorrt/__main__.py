"""``python -m deploy.tensorrt MODEL.onnx``: build an engine; needs only numpy and the product.

Exit codes: 0 built · 2 the file or the package is not valid · 4 usage.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import QadtrError
from ..core.parser import Parser
from .bindings import FLAVOURS
from .builder import build_engine
from .engine_file import sidecar_of
from .options import COMPUTE_CAPABILITIES, HARDWARE, BuildOptions

PROGRAM = "deploy.tensorrt"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = Parser(
        prog=f"python -m {PROGRAM}",
        description="Build a TensorRT engine from a file of the target 'tensorrt'.",
        epilog="TensorRT-RTX needs no GPU for the build, TensorRT needs one; both need one to "
        "run an engine.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="engine file to write (default: MODEL.NAME.engine)"
    )
    parser.add_argument(
        "--engine",
        choices=tuple(FLAVOURS),
        default="tensorrt-rtx",
        help="product that builds the engine and will run it (default: tensorrt-rtx)",
    )
    parser.add_argument(
        "--batch-sizes",
        type=int,
        nargs=3,
        default=BuildOptions.batch_sizes,
        metavar=("LEAST", "USUAL", "MOST"),
        help="images per call: least, usual and largest (default: 1 64 64)",
    )
    parser.add_argument("--optimization-level", type=int, metavar="0-5")
    parser.add_argument(
        "--compute-capability",
        nargs="+",
        metavar="X.Y",
        help="tensorrt-rtx: compute capabilities of the GPUs to build for, or current "
        f"(default: {' '.join(COMPUTE_CAPABILITIES)})",
    )
    parser.add_argument(
        "--hardware",
        choices=tuple(HARDWARE),
        default=BuildOptions.hardware,
        help="tensorrt: other GPUs that the engine may run on (default: this-gpu)",
    )
    parser.add_argument(
        "--version-compatible",
        action="store_true",
        help="tensorrt: also allow later versions to run it",
    )
    parser.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="tensorrt: timing cache, which is read and written back",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Build as the command line says and return the exit code."""
    logging.basicConfig(level=logging.WARNING, format=f"{PROGRAM}: %(message)s")
    arguments = build_parser().parse_args(argv)
    out = arguments.out or arguments.model.with_suffix(f".{arguments.engine}.engine")
    wanted = arguments.compute_capability
    try:
        facts = build_engine(
            arguments.model,
            out,
            FLAVOURS[arguments.engine],
            BuildOptions(
                batch_sizes=tuple(arguments.batch_sizes),
                optimization_level=arguments.optimization_level,
                compute_capabilities=None if wanted is None else tuple(wanted),
                hardware=arguments.hardware,
                version_compatible=arguments.version_compatible,
                timing_cache=arguments.timing_cache,
            ),
        )
    except QadtrError as error:
        print(f"{PROGRAM}: {error.line}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts["kinds"].items() if count)
    engine, builder = facts["engine"], facts["builder"]
    print(  # noqa: T201
        f"{out}  {engine['size_bytes']} bytes, sha256 {engine['sha256'][:16]}, by "
        f"{builder['name']} {builder['version']}\n"
        f"integer layers: {kinds} ({len(facts['layers'])} layers in {sidecar_of(out).name})"
    )
    print(f"{PROGRAM}: {facts['note']}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
