"""`qadtr defenses`: several defenses with one budget and the same patches, and one table."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from qadtr.arguments import count, index, positive
from qadtr.commands import shared
from qadtr.config_files import CONFIGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from training.dry_run import DryRun

HELP = "train, export, attack and compare several defenses in one table; can be resumed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configs, the budget of each row, the patches, and where all of it goes."""
    shared.add_data(parser)
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the runs, the patches and the table; repeat the same command to "
        "continue an interrupted one",
    )
    add(
        "--configs",
        type=Path,
        default=CONFIGS,
        metavar="DIR",
        help="folder of FAMILY-ROW.toml and FAMILY-source.toml (default: the configs of "
        "`qadtr configs`)",
    )
    add(
        "--family",
        default="cifar10-resnet8",
        help="family of the configs (default: cifar10-resnet8)",
    )
    add(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="rows of the table (default: plain pbat dwq triqdef … full)",
    )
    add("--reference", default="full", help="row that the others are compared with (default: full)")
    add(
        "--source",
        type=Path,
        metavar="RUN",
        help="use this finished float run as the source instead of training one",
    )
    add(
        "--warm-start",
        type=Path,
        metavar="CHECKPOINT",
        help="float checkpoint that every row (not the source) starts from, for fewer epochs",
    )
    add("--epochs", type=positive, help="epochs of every row (default: those of each config)")
    add(
        "--sizes",
        type=shared.patch_size,
        nargs="+",
        default=[6, 8],
        metavar="SIZE",
        help="sides of the patches in pixels, or their shares of the image (default: 6 8)",
    )
    shared.add_split(
        parser,
        "split of the images; choose settings on holdout, the test images are for the "
        "final table (default: test)",
    )
    add("--images", type=count, default=2000, help="images of a transfer cell (default: 2000)")
    add(
        "--made-from",
        type=count,
        default=5000,
        help="training images that a universal patch is optimized on (default: 5000)",
    )
    add("--steps", type=count, default=100, help="steps of the transferred patches (default: 100)")
    add(
        "--own-images",
        type=index,
        default=2000,
        help="images of a white-box cell (default: 2000); 0 leaves the column out",
    )
    add(
        "--own-steps", type=count, default=100, help="steps of the white-box patches (default: 100)"
    )
    shared.add_settings(parser, "training.batch_size=64 (for every training)")
    add("--device", default="cpu", help="torch device, such as cuda")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--plan", action="store_true", help="only time ten steps of each row")
    only.add_argument(
        "--table", action="store_true", help="only print the table of what is already there"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what is missing and print the table as Markdown; 1 if a row failed."""
    from eval.report.defenses import defenses_markdown
    from eval.stages.defenses import ROWS, SOURCE, Defenses, DefensesSettings
    from training.patch_sizes import side_px

    settings = shared.settings_of(
        DefensesSettings,
        arguments,
        rows=tuple(arguments.rows or ROWS),
        settings=shared.settings_from(arguments.settings),
        sizes_px=(),
    )
    side = settings.config(SOURCE).data.size
    sizes = tuple(side_px(size, (side, side)) for size in arguments.sizes)
    settings = dataclasses.replace(settings, sizes_px=sizes)
    for row in (*settings.rows, SOURCE):  # refused now, not hours later
        settings.config(row)
    defenses = Defenses(
        settings=settings, data=arguments.data, out=arguments.out, repository=shared.repository()
    )
    if arguments.plan:
        print(_costs(defenses.costs()))
        return 0
    failed = {} if arguments.table else defenses.make()
    print(defenses_markdown(defenses.table(failed)))
    return 1 if failed else 0


def _costs(costs: Mapping[str, DryRun]) -> str:
    """Images/s of each row, and the time of its training."""
    lines = [f"{'row':<14} {'images/s':>9} {'× plain':>8} {'steps':>8} {'minutes':>8}"]
    plain = costs.get("plain")
    for row, cost in costs.items():
        times = "–" if plain is None else f"{plain.images_per_s / cost.images_per_s:.2f}"
        lines.append(
            f"{row:<14} {cost.images_per_s:>9.1f} {times:>8} {cost.steps:>8} "
            f"{cost.seconds / 60:>8.1f}"
        )
    hours = sum(cost.seconds for cost in costs.values()) / 3600
    lines.append(
        f"training of all rows: {hours:.1f} h; patches and evaluation take additional time"
    )
    return "\n".join(lines)
