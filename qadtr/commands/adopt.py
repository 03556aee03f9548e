"""`qadtr adopt`: anybody's ONNX classifier as a run folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.arguments import count
from qadtr.commands import shared

HELP = (
    "make a run folder of any ONNX classifier, float or quantized, for eval, patch, bundle "
    "and the gate"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, what it does not say of its image, and the data."""
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="images in, logits out")
    shared.add_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder")
    shared.add_image_form(parser, "; leave out for a file that takes bytes")
    parser.add_argument(
        "--layout",
        default="NCHW",
        choices=("NCHW", "NHWC"),
        help="layout of the file's input (default: NCHW)",
    )
    parser.add_argument(
        "--output", metavar="NAME", help="tensor of the logits (default: the file's only output)"
    )
    parser.add_argument(
        "--kind",
        choices=("cifar10", "folder", "digits", "npz"),
        help="kind of the data (default: recognized from the folder's contents)",
    )
    shared.add_split(parser, "split of the images that the file is tried on (default: test)")
    parser.add_argument(
        "--images",
        type=count,
        default=64,
        metavar="N",
        help="number of images that the file is tried on (default: 64)",
    )
    parser.add_argument(
        "--bits",
        type=count,
        metavar="BITS",
        help="bit-width that the run lists the file under (default: 8 if it is quantized, else 32)",
    )
    parser.add_argument(
        "--require-integer",
        action="store_true",
        help="refuse a file that has a layer running in float",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace another adopted model in RUN, with its records",
    )


def run(arguments: argparse.Namespace) -> int:
    """Adopt the file, and print what was found of it."""
    from export.adopting import adopt

    found = adopt(
        arguments.model,
        arguments.data,
        arguments.out,
        mean=arguments.mean,
        std=arguments.std,
        layout=arguments.layout,
        size=None if arguments.size is None else tuple(arguments.size),
        output=arguments.output,
        kind=arguments.kind,
        split=arguments.split,
        images=arguments.images,
        bits=arguments.bits,
        require_integer=arguments.require_integer,
        overwrite=arguments.overwrite,
        provenance=shared.provenance(),
    )
    print(found.summary())
    return 0
