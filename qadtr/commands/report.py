"""`qadtr report`: the records of runs as a table and one self-contained HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write one self-contained HTML page from the records of runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs, and where the page goes."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help="default: report.html in the last RUN"
    )
    parser.add_argument("--title", help="heading of the page")
    parser.add_argument("--table", action="store_true", help="also print the table")


def run(arguments: argparse.Namespace) -> int:
    """Write the page and print where it is, after the table if asked for."""
    from eval.report.results import text_table
    from eval.stages.report import records_of, write_report

    out: Path = arguments.out or arguments.runs[-1] / "report.html"
    written = write_report(arguments.runs, out, title=arguments.title)
    if arguments.table:
        print(text_table(record for run in arguments.runs for record in records_of(run)))
        print()
    print(written)
    return 0
