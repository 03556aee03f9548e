"""`qadtr parity`: the engine's codes and logits against the integer reference, on any images."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.commands.shared import add_data

HELP = "compare exported models with the integer reference, code by code"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, the bit-widths, and the images."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder with exported models")
    add_data(parser)
    parser.add_argument("--bits", type=int, nargs="+", help="bit-widths (default: all exported)")
    parser.add_argument(
        "--split", default="holdout", choices=("holdout", "test"), help="default: holdout"
    )
    parser.add_argument("--images", type=int, metavar="N", help="how many (default: all)")
    parser.add_argument(
        "--least-agreement",
        type=float,
        default=0.995,
        metavar="SHARE",
        help="share of the images that must keep the fake-quantized network's class "
        "(default: 0.995)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what was found of each file; 2 when one of them is no parity."""
    from deploy.device.records import provenance
    from export.parity_run import parity_of_run
    from qadtr.commands.shared import repository
    from training.data.subset import chosen_indices
    from training.run_folder import RunFolder

    folder = RunFolder.open(arguments.run)
    split = folder.images(arguments.data, arguments.split)
    facts = provenance(
        repository=repository(),
        seed=folder.seed,
        data={"name": split.name, "split": split.split, "digest": split.digest},
    )
    failed = False
    for found in parity_of_run(
        folder,
        arguments.bits,
        split.images[chosen_indices(len(split), arguments.images)],
        arguments.least_agreement,
        facts,
    ):
        print(f"{found.model}: {found.summary()}")
        failed = failed or not found.ok
    return 2 if failed else 0
