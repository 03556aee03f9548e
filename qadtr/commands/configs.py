"""`qadtr configs`: the configs that come along, by the names that `qadtr train` takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.config_files import CONFIGS, config_file, config_names

HELP = "list the configs that `qadtr train` takes by name, or print one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which one to print."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="print this config's file, as a start for your own"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each, or the text of one."""
    from deploy.core.table import Table

    if arguments.name is not None:
        print(config_file(arguments.name).read_text(encoding="utf-8"), end="")
        return 0
    rows = [[name, _about(CONFIGS / f"{name}.toml")] for name in config_names()]
    print(Table(columns=("", ""), rows=rows).text())
    print("\nqadtr train NAME --data DIR trains with a config; qadtr configs NAME prints it.")
    return 0


def _about(path: Path) -> str:
    """The comment that each of them starts with."""
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
