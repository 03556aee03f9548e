"""`qadtr zoo`: the trained networks of the repository with their figures, and one taken out."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.commands import shared

HELP = "list the trained networks of the repository with their figures, or copy one out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which network, where it goes, and where the zoo is."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="only this network (default: list all)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="RUN",
        help="copy NAME's checkpoint and records into this new run folder, for export and bundle",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="folder of run folders, or of groups of them (default: the repository's folder "
        "results)",
    )


def run(arguments: argparse.Namespace) -> int:
    """List the networks, or copy one; nothing is fetched."""
    from deploy.core.errors import InputError, UsageError
    from deploy.core.strict_json import json_bytes
    from eval.stages.zoo import chosen, take_out, zoo_json, zoo_networks, zoo_table

    if arguments.out is not None and arguments.name is None:
        raise UsageError("--out copies one network; give its name, as `qadtr zoo` lists it")
    if arguments.out is not None and arguments.json:
        raise UsageError("--json lists figures and --out copies a network; give one of the two")
    folder, root = arguments.folder, shared.repository()
    if folder is None:
        if root is None:
            raise InputError(
                "the zoo is the folder results of qadtr's repository, and an installed package "
                "has no networks; clone the repository and give --folder CLONE/results"
            )
        folder = root / "results"
    networks = zoo_networks(folder)
    if arguments.name is not None:
        networks = [chosen(networks, arguments.name)]
    if arguments.out is not None:
        made = take_out(networks[0], arguments.out)
        print(f"{made.path}: {networks[0].title}; {len(networks[0].records)} records")
        print(f"next: {made.command('export')} --data DIR")
    elif arguments.json:
        print(json_bytes(zoo_json(networks)).decode(), end="")
    else:
        print(zoo_table(networks).text())
    return 0
