"""`qadtr doctor`: what is installed, what the processor has, and how to mend what is wrong."""

from __future__ import annotations

import argparse
import sys

HELP = "say what is installed and what would fail, and how to mend it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 2 when one of them is a problem."""
    from deploy.core.colour import coloured
    from qadtr.diagnosis import COLOURS, diagnose

    findings = diagnose()
    for finding in findings:
        level = coloured(f"{finding.level:<8}", COLOURS[finding.level], sys.stdout)
        print(f"{level} {finding.subject:<24} {finding.text}")
    return 2 if any(finding.level == "problem" for finding in findings) else 0
