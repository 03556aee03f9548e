"""`qadtr export`: a run's checkpoint to one model file per target and bit-width, each proved."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from qadtr.arguments import count, share
from qadtr.commands import shared

if TYPE_CHECKING:
    from export.export_run import ExportedModel

HELP = "export a run to integer model files, with certificate and parity"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, the bit-widths, and the images that parity is checked on."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    shared.add_images(parser)
    parser.add_argument(
        "--bits", type=count, nargs="+", help="bit-widths; 32 is the float baseline (default: all)"
    )
    parser.add_argument(
        "--images",
        type=count,
        default=500,
        metavar="N",
        help="largest number of hold-out images to check against the integer reference "
        "(default: 500)",
    )
    parser.add_argument(
        "--target",
        nargs="+",
        default=["onnxruntime"],
        metavar="TARGET",
        help="targets to write, each file put in place only after its own proof: onnxruntime "
        "(all-integer, default), litert, tensorrt, qcdq, qonnx",
    )
    parser.add_argument(
        "--storage",
        help="storage of the weights in the onnxruntime file: low-bit (INT2, INT4 or INT8, "
        "default) or int8",
    )
    parser.add_argument(
        "--tune",
        help="processor whose kernels the onnxruntime file is laid out for: any (default), or "
        "amx (the same codes, faster on processors with AMX and slower on others)",
    )
    parser.add_argument(
        "--least-agreement",
        type=share,
        metavar="SHARE",
        help="share of the images that must keep the fake-quantized network's class (default: "
        "0.995; for tensorrt 0.95, at 4 bits 0.92, below 4 bits 0.8)",
    )
    parser.add_argument(
        "--engine-logits",
        type=share,
        metavar="SHARE",
        help="for tensorrt and qcdq: largest difference of a logit between an engine and the "
        "file's reference, as a share of the largest logit (default: 0.1 and 0.05)",
    )
    parser.add_argument(
        "--engine-flips",
        type=share,
        metavar="SHARE",
        help="for tensorrt and qcdq: share of the images that may have another class in an engine "
        "than in the file's reference (default: 0.02 and 0.01)",
    )
    shared.add_code_flips(parser)
    parser.add_argument(
        "--explain",
        action="store_true",
        help="print what each lowering rule turned each layer into",
    )


def run(arguments: argparse.Namespace) -> int:
    """Export, and print a line per file, also where others failed."""
    from export.budget import Overrides
    from export.export_run import ExportError
    from qadtr.functions.export import export
    from training.run_folder import RunFolder

    try:
        made = export(
            RunFolder.open(arguments.run, arguments.cache, arguments.data),
            bits=arguments.bits,
            targets=arguments.target,
            count=arguments.images,
            storage=arguments.storage,
            tune=arguments.tune,
            overrides=shared.settings_of(Overrides, arguments),
        )
    except ExportError as error:
        _print(error.made, explain=arguments.explain)
        raise
    _print(made, explain=arguments.explain)
    return 0


def _print(made: Sequence[ExportedModel], *, explain: bool) -> None:
    from export.target_proofs import TargetProof

    for model in made:
        lowered = model.lowered
        print(f"{lowered.path}  {lowered.size_bytes / 1000:,.1f} kB")
        if explain:
            if model.exactness is not None:
                print(f"  {model.exactness.summary()}")
            for line in lowered.log:
                print(f"  {line}")
            for name in lowered.guarantees:
                print(f"  the whole graph: {name} [guarantee]")
            if isinstance(model.proof, TargetProof):
                print(indent(model.proof.summary(), "  "))
