"""`qadtr eval`: exported models against patch files, one record each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qadtr.arguments import count, index
from qadtr.commands import shared

if TYPE_CHECKING:
    from training.run_folder import RunFolder

HELP = "measure clean accuracy, attack success rate and latency of exported models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The models, the patches, the images, and how to run them."""
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders with exported models; several are compared on their common images",
    )
    parser.add_argument(
        "--patches",
        type=Path,
        nargs="+",
        metavar="PATCHES",
        help="patch files (.npz) or folders of them; with --adaptive, additional starting points",
    )
    shared.add_images(parser)
    shared.add_bits(parser, "all exported")
    parser.add_argument(
        "--engine", default="onnxruntime", help="engine to run (default: onnxruntime)"
    )
    parser.add_argument(
        "--threads", type=count, default=1, help="threads of the engine (default: 1)"
    )
    parser.add_argument(
        "--batch-size", type=count, default=64, help="images per call (default: 64)"
    )
    shared.add_split(parser)
    parser.add_argument(
        "--adaptive",
        action="store_true",
        help="attack each network directly, with knowledge of its defense; see docs/checks.md",
    )
    parser.add_argument(
        "--images", type=count, help="adaptive: number of images to attack (default: 500)"
    )
    parser.add_argument("--seed", type=index, help="adaptive: seed of the attack (default: 0)")
    parser.add_argument(
        "--random-precision",
        action="store_true",
        help="adaptive: also attack with a bit-width drawn at random for each answer, as DWQ "
        "does at inference",
    )
    shared.add_settings(parser, "steps=200 (adaptive)")
    parser.add_argument("--no-latency", action="store_true", help="do not measure latency")
    parser.add_argument(
        "--no-drift", action="store_true", help="do not evaluate the fake-quantized network"
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and print the table of what was measured."""
    from deploy.core.errors import UsageError
    from deploy.core.records import read_records
    from eval.report.results import text_table
    from qadtr.functions.evaluate import evaluate
    from training.run_folder import RunFolder

    runs = [RunFolder.open(path, arguments.cache, arguments.data) for path in arguments.runs]
    if arguments.adaptive:
        shared.refuse_without_effect(
            arguments,
            {"threads": 1, "batch_size": 64, "no_latency": False, "no_drift": False},
            "with --adaptive",
        )
        return _adaptive(arguments, runs)
    shared.refuse_without_effect(
        arguments,
        {"images": None, "seed": None, "random_precision": False, "settings": []},
        "without --adaptive, because the patch files record which images they are for",
    )
    if arguments.patches is None:
        raise UsageError(
            "--patches is needed: give files that `qadtr patch` made on another network, or "
            f"attack this one: {runs[0].command('eval', '--adaptive')}"
        )
    evaluate(
        runs,
        arguments.patches,
        arguments.data,
        bits=arguments.bit_widths,
        engine=arguments.engine,
        threads=arguments.threads,
        batch_size=arguments.batch_size,
        drift=not arguments.no_drift,
        latency=not arguments.no_latency,
        split=arguments.split,
    )
    print(text_table(record for run in runs for record in read_records(run.records)))
    return 0


def _adaptive(arguments: argparse.Namespace, runs: Sequence[RunFolder]) -> int:
    from deploy.core.records import read_records
    from eval.report.adaptive import adaptive_table
    from qadtr.functions.evaluate import adaptive

    adaptive(
        runs,
        arguments.data,
        bits=arguments.bit_widths,
        count=500 if arguments.images is None else arguments.images,
        seed=0 if arguments.seed is None else arguments.seed,
        settings=shared.settings_from(arguments.settings),
        patches=arguments.patches or (),
        split=arguments.split,
        engine=arguments.engine,
        random_precision=arguments.random_precision,
    )
    print(adaptive_table(record for run in runs for record in read_records(run.records)))
    return 0
