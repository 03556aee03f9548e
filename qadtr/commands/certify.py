"""`qadtr certify`: on how many images no patch of a size can win."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.arguments import count
from qadtr.commands import shared

HELP = "count the images on which no patch of a size can win (double masking, in the engine)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, the sizes and the images."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder with exported models")
    shared.add_images(parser)
    parser.add_argument(
        "--patch",
        type=shared.patch_size,
        nargs="+",
        default=(5,),
        dest="sizes_px",
        metavar="SIZE",
        help="side of the patches in pixels, or share of the image, such as 5%%; each size gives "
        "its own record (default: 5)",
    )
    parser.add_argument(
        "--masks-per-axis",
        type=count,
        default=6,
        metavar="K",
        help="use K×K masks and all pairs of them (default: 6); with more masks each hides "
        "less, and more passes are needed",
    )
    parser.add_argument(
        "--patches",
        type=Path,
        nargs="+",
        default=(),
        metavar="PATCHES",
        help="patch files (.npz) or folders of them, tried against masked inference",
    )
    shared.add_bits(parser, "all exported")
    parser.add_argument(
        "--images",
        type=count,
        default=500,
        metavar="N",
        help="largest number of images (default: 500)",
    )
    shared.add_split(parser, "split of the images (default: test)")
    parser.add_argument(
        "--engine",
        default="onnxruntime",
        help="engine (default: onnxruntime); torch runs the network itself",
    )
    parser.add_argument(
        "--threads", type=count, default=1, help="threads of the engine (default: 1)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Certify, write the records and print them as a table."""
    from eval.report.certification import certification_table
    from eval.stages.certify import CertifySettings, certify_run
    from training.patch_sizes import side_px
    from training.run_folder import RunFolder

    run = RunFolder.open(arguments.run, arguments.cache, arguments.data)
    sides = tuple(side_px(size, run.spec.image_size) for size in arguments.sizes_px)
    settings = shared.settings_of(CertifySettings, arguments, sizes_px=sides)
    records = certify_run(
        run,
        arguments.data,
        settings,
        shared.provenance(masks_per_axis=settings.masks_per_axis),
        arguments.patches,
    )
    print(certification_table(records).text())
    return 0
