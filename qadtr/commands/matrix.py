"""`qadtr matrix`: patches of many sources against many targets, resumable and shardable."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.arguments import count
from qadtr.commands import shared

HELP = "make the transfer matrix of a plan: sources × attacks against targets × engines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The plan, where it is written, and who does the work."""
    parser.add_argument(
        "plan", type=Path, metavar="PLAN.toml", help="plan of the matrix; see docs/matrix.md"
    )
    shared.add_images(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the patches and records (default: runs/NAME for NAME.toml)",
    )
    parser.add_argument(
        "--stage", default="all", help="stages to run: all (default), patches or evaluate"
    )
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N", help="do every N-th job, starting from job I"
    )
    parser.add_argument(
        "--workers", type=count, default=1, help="processes on this machine (default: 1)"
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="address of a Ray cluster: auto, HOST:PORT, or local"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what is not done yet and print the matrix."""
    from deploy.core.errors import UsageError
    from eval.report.transfer import matrix_text
    from eval.stages.matrix.plan import read_plan
    from eval.stages.matrix.running import Running, checks_of_targets, run_matrix

    index, slash, count = arguments.shard.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise UsageError(f"--shard expects I/N, such as 2/4, got {arguments.shard!r}")
    running = shared.settings_of(Running, arguments, shard=(int(index), int(count)))
    plan = read_plan(arguments.plan)
    out: Path = arguments.out or shared.RUNS / arguments.plan.stem
    records = run_matrix(
        plan,
        arguments.data,
        out,
        running,
        shared.provenance(seed=plan.settings.seed),
        arguments.cache,
    )
    if running.stage != "patches":
        print(matrix_text(records, checks_of_targets(plan)))
    print(out)
    return 0
