"""`qadtr checks`: whether the attacks on a network can be believed."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.arguments import count, index
from qadtr.commands import shared

HELP = "check whether the attack success rates of a network can be trusted; see docs/checks.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The networks, what they are held against, and the budget."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders")
    shared.add_images(parser)
    shared.add_bits(parser)
    parser.add_argument(
        "--source",
        type=Path,
        metavar="RUN",
        help="run folder of another network for the same data, whose patches are transferred",
    )
    parser.add_argument(
        "--undefended",
        type=Path,
        metavar="RUN",
        help="run folder of an undefended network, which the attack must break",
    )
    parser.add_argument(
        "--images", type=count, default=100, help="number of images to attack (default: 100)"
    )
    shared.add_split(parser, "split of the images (default: test)")
    parser.add_argument("--seed", type=index, default=0, help="seed of the attacks (default: 0)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="CHECK",
        help="run only these checks (default: all), for example with more images or steps "
        "where one is undecided",
    )
    parser.add_argument(
        "--plant",
        metavar="FAKE",
        dest="planted",
        help="put this fake defense around the network; the checks must find it",
    )
    shared.add_settings(parser, "steps=200")


def run(arguments: argparse.Namespace) -> int:
    """Check, and print the verdicts. A tripped check is a finding, not a failure: the code is 0."""
    from eval.measure.checks.attacked_network import BatterySettings
    from eval.report.attack_checks import checks_table
    from eval.stages.checks import ChecksRunSettings, run_checks
    from training.patch_sizes import in_pixels
    from training.run_folder import RunFolder
    from training.validated import read_settings

    runs = [RunFolder.open(path, arguments.cache, arguments.data) for path in arguments.runs]
    given = in_pixels(shared.settings_from(arguments.settings), runs[0].spec.image_size)
    battery = read_settings(
        BatterySettings, {"images": arguments.images, "seed": arguments.seed, **given}, "checks"
    )
    source, undefended = (
        None if path is None else RunFolder.open(path)
        for path in (arguments.source, arguments.undefended)
    )
    records = []
    for run in runs:
        records += run_checks(
            run,
            arguments.data,
            battery,
            shared.settings_of(ChecksRunSettings, arguments),
            shared.provenance(seed=arguments.seed, config=battery.as_record()),
            source=source,
            undefended=undefended,
        )
    print(checks_table(records))
    return 0
