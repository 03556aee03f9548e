"""`qadtr completion`: a script that completes commands, options and files in a shell."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "print the completion script of a shell"

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument(
        "shell",
        choices=SHELLS,
        help='in bash: eval "$(qadtr completion bash)", or save it where your shell looks',
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the script; it is of this version's options."""
    import shtab

    # Here and not above: the parser imports this module.
    from qadtr.__main__ import build_parser
    from qadtr.config_files import config_names

    parser = build_parser()
    for command in parser.commands.values():
        for action in command._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            if action.dest == "config" and action.metavar == "CONFIG":
                action.choices = config_names()
    print(shtab.complete(parser, arguments.shell))
    return 0
