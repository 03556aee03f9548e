"""`qadtr parity`: engine, integer reference and fake quantization, layer by layer."""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import indent

from qadtr.arguments import count, share
from qadtr.commands import shared

HELP = "compare exported models with the integer reference and fake quantization, layer by layer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, the bit-widths, and the images."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder with exported models")
    shared.add_images(parser)
    shared.add_bits(parser, "all exported")
    parser.add_argument(
        "--split",
        default="holdout",
        choices=("holdout", "test"),
        help="split of the images (default: holdout)",
    )
    parser.add_argument("--images", type=count, metavar="N", help="number of images (default: all)")
    parser.add_argument(
        "--target",
        default="onnxruntime",
        choices=("onnxruntime", "litert", "tensorrt", "qcdq", "qonnx"),
        help=(
            "target of the files (default: onnxruntime); the codes of onnxruntime and litert "
            "must be equal, the others must stay within their budgets"
        ),
    )
    parser.add_argument(
        "--least-agreement",
        type=share,
        metavar="SHARE",
        help="share of the images that must keep the fake-quantized network's class (default: as "
        "in qadtr export)",
    )
    shared.add_code_flips(parser)
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="also write the comparison as one self-contained HTML page",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what was found of each file, layer by layer; 2 when one of them is not a parity."""
    from deploy.core.errors import QadtrError, UsageError
    from deploy.core.files import write_atomic
    from eval.report.parity_page import parity_page
    from export.budget import Overrides
    from export.parity_report import Parity
    from export.proving import parity_of_run
    from training.data.subset import chosen_indices
    from training.run_folder import RunFolder

    folder = RunFolder.open(arguments.run, arguments.cache, arguments.data)
    split = folder.images(arguments.data, arguments.split)
    facts = shared.provenance(seed=folder.seed, data=split.about)
    images = split.images[chosen_indices(len(split), arguments.images)]
    if arguments.html is not None and arguments.target not in ("onnxruntime", "litert"):
        raise UsageError(
            "--html needs a comparison by layers; only the targets onnxruntime and litert have one"
        )
    overrides = shared.settings_of(Overrides, arguments)
    failed, drawn = False, []
    for path, proof in parity_of_run(
        folder, arguments.target, arguments.bit_widths, images, overrides, facts
    ):
        if isinstance(proof, Parity):
            print(f"{proof.model}: {proof.summary()}")
            print(proof.table())
            drawn.append(proof)
        else:
            print(f"{path.name}: {'within its budget' if proof.ok else 'OVER ITS BUDGET'}")
            print(indent(proof.summary(), "  "))
        failed = failed or not proof.ok
    if arguments.html is not None:
        write_atomic(arguments.html, parity_page(folder.path.name, drawn).encode())
        print(arguments.html)
    return QadtrError.exit_code if failed else 0
