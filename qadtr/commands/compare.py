"""`qadtr compare`: which images changed their verdict between two results."""

from __future__ import annotations

import argparse

HELP = "compare two reports or evaluations image by image (McNemar)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two results and what to make of their difference."""
    from deploy.device import compare_command

    compare_command.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; 1 where --fail-on-worse finds something worse."""
    from deploy.device import compare_command
    from eval.measure.checks.checks_record import verdict_beside

    return compare_command.run(arguments, verdict_beside)
