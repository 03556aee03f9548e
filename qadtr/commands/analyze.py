"""`qadtr analyze`: the paper's analyses of a network under a patch, one record each."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.arguments import count, index
from qadtr.commands import shared

HELP = (
    "analyze a network under a patch (gradients, locations, features) and write records for "
    "the report"
)
WHAT = ("gradients", "gradient-maps", "locations", "occlusion", "visibility", "features")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The network, the patches, the images, and what to look at."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of the network")
    shared.add_images(parser)
    parser.add_argument(
        "--patches",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATCHES",
        help="patch files (.npz) or folders of them",
    )
    parser.add_argument(
        "--what", nargs="+", default=WHAT, choices=WHAT, help="analyses (default: all)"
    )
    shared.add_bits(parser)
    parser.add_argument(
        "--images",
        type=count,
        metavar="N",
        help="number of images of each patch file (default: all)",
    )
    parser.add_argument(
        "--stride", type=count, default=4, help="pixels between the positions of a map (default: 4)"
    )
    parser.add_argument(
        "--occluder", type=count, default=8, help="side of the grey square in pixels (default: 8)"
    )
    parser.add_argument(
        "--show", type=index, default=1, help="number of images whose maps are kept (default: 1)"
    )
    shared.add_split(parser)
    parser.add_argument(
        "--batch-size", type=count, default=100, help="images per batch (default: 100)"
    )
    parser.add_argument(
        "--seed", type=index, default=0, help="seed of the random patches (default: 0)"
    )
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda")


def run(arguments: argparse.Namespace) -> int:
    """Analyse, write the records and print their figures."""
    from deploy.core.records import read_records
    from eval.measure.analyses.analysis_settings import AnalysisSettings
    from eval.measure.checks.checks_record import KIND as CHECKS_KIND
    from eval.report.analysis_table import analysis_rows, analysis_table
    from eval.stages.analyze import analyse_run
    from training.run_folder import RunFolder

    folder = RunFolder.open(arguments.run, arguments.cache, arguments.data)
    settings = shared.settings_of(
        AnalysisSettings,
        arguments,
        bit_widths=tuple(sorted(arguments.bit_widths or folder.bit_widths, reverse=True)),
        stride_px=arguments.stride,
        occluder_px=arguments.occluder,
        shown=arguments.show,
    )
    found = analyse_run(
        folder,
        arguments.patches,
        arguments.data,
        arguments.what,
        settings,
        shared.provenance(seed=arguments.seed, config=settings.as_record()),
        images=arguments.images,
        split=arguments.split,
        device=arguments.device,
    )
    # With the attack checks, so that a rate which they doubt is marked.
    checks = read_records(folder.records, CHECKS_KIND)
    made = [{"kind": kind, "payload": payload} for kind, payload in found]
    if analysis_rows(made):
        print(analysis_table([*checks, *made]))
    else:
        print(f"{len(made)} record(s) with pictures only; `qadtr report {folder.path}` draws them")
    return 0
