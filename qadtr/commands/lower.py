"""`qadtr lower`: anybody's quantized ONNX file as an all-integer one."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.arguments import count, share
from qadtr.commands import shared

HELP = "turn a quantized ONNX file (QONNX or Q/DQ) of any origin into an all-integer one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, what it does not say of its image, and what to prove it on."""
    parser.add_argument(
        "model", type=Path, metavar="FILE.onnx", help="QONNX (Brevitas, FINN) or Q/DQ of int8/uint8"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--target",
        default="onnxruntime",
        choices=("onnxruntime", "qcdq", "tensorrt"),
        help="target of the file (default: onnxruntime, all integers)",
    )
    shared.add_image_form(parser, " (default: the input is the byte itself, 0…255)")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FILE.npz",
        help="images for the proof, uint8 N×C×H×W or N×H×W×C under `images` (default: noise)",
    )
    parser.add_argument(
        "--count",
        type=count,
        default=64,
        metavar="N",
        help="number of images for the proof (default: 64)",
    )
    parser.add_argument(
        "--least-agreement",
        type=share,
        metavar="SHARE",
        help="share of --images that must keep the class that the source file gives (default: "
        "0.95; not required of noise)",
    )
    parser.add_argument(
        "--storage", choices=("low-bit", "int8"), help="storage of the weights (default: low-bit)"
    )
    parser.add_argument(
        "--explain", action="store_true", help="also print what was done to each layer"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the file, and print what was found of it; 2 when it is not integers throughout."""
    from qadtr.functions.export import lower

    found = lower(
        arguments.model,
        arguments.out,
        mean=arguments.mean,
        std=arguments.std,
        size=None if arguments.size is None else tuple(arguments.size),
        images=arguments.images,
        count=arguments.count,
        target=arguments.target,
        storage=arguments.storage,
        least_agreement=arguments.least_agreement,
    )
    if arguments.explain:
        print("\n".join(found.lowered.log))
    else:
        print("\n".join(line for line in found.lowered.log if line.endswith("[source]")))
    print(found.summary())
    return 0 if found.ok else 2
