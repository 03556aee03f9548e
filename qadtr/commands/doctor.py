"""`qadtr doctor`: what is installed, what the processor has, and how to mend what is wrong."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qadtr.arguments import count
from qadtr.commands import shared

if TYPE_CHECKING:
    from qadtr.diagnosis import Finding

HELP = "list what is installed, what would fail and how to fix it; find the fastest engine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run whose engines are to be timed, if any."""
    parser.add_argument(
        "run",
        type=Path,
        nargs="?",
        metavar="RUN",
        help="run folder with exported models: also time each engine that runs them on this "
        "machine",
    )
    shared.add_bits(parser, "all exported except 32")
    parser.add_argument(
        "--threads", type=count, default=1, help="threads of each engine (default: 1)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 2 when one of them is a problem."""
    if arguments.run is None:
        idle = {"bit_widths": None, "threads": 1}
        shared.refuse_without_effect(arguments, idle, "without a RUN")
        return _print_environment()
    from qadtr.quickest import exported_bit_widths, quickest_findings
    from training.run_folder import RunFolder

    folder = RunFolder.open(arguments.run)
    bit_widths = arguments.bit_widths or exported_bit_widths(folder)
    code = _print_environment()
    said: list[Finding] = []
    for bits in bit_widths:
        found = quickest_findings(folder, bits, threads=arguments.threads)
        new = [finding for finding in found if finding not in said]
        _print(new)
        said += new
    return code


def _print_environment() -> int:
    from deploy.core.errors import QadtrError
    from qadtr.diagnosis import diagnose

    findings = diagnose()
    _print(findings)
    return QadtrError.exit_code if any(finding.level == "problem" for finding in findings) else 0


def _print(findings: list[Finding]) -> None:
    from deploy.core.colour import coloured
    from qadtr.diagnosis import COLOURS

    for finding in findings:
        level = coloured(f"{finding.level:<8}", COLOURS[finding.level], sys.stdout)
        print(f"{level} {finding.subject:<24} {finding.text}", flush=True)
