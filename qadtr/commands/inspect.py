"""`qadtr inspect`: which operators and types ONNX Runtime really runs for a file."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "say which kernels ONNX Runtime really runs for an ONNX file, layer by layer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and the size of images where the file does not say."""
    parser.add_argument("model", type=Path, metavar="FILE.onnx", help="an image classifier")
    parser.add_argument(
        "--size",
        type=int,
        default=32,
        metavar="PX",
        help="side of the images, where the file leaves it open (default: 32)",
    )
    parser.add_argument("--threads", type=int, default=1, help="of the engine (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Print the layers and the verdict; 2 when something runs in float."""
    from export.certificate import certify
    from export.sample import sample_for

    certificate = certify(
        arguments.model,
        sample_for(arguments.model, open_size_px=arguments.size),
        threads=arguments.threads,
    )
    for layer in certificate.layers:
        mark = " " if layer.integer else "!"
        types = f"{', '.join(layer.input_types)} → {', '.join(layer.output_types)}"
        print(f"{mark} {layer.time_share:6.1%}  {layer.operator:<36} {types:<28} {layer.layer}")
    print(certificate.summary())
    return 0 if certificate.ok else 2
