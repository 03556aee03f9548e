"""`qadtr report`: the records of runs as one self-contained HTML page, as tables and as data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qadtr.commands import shared

HELP = "write one self-contained HTML page from the records of runs; also CSV, JSON, LaTeX, figures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs, where the page goes, and the other forms."""
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="run folders")
    add(
        "--out",
        type=Path,
        metavar="FILE.html",
        help="page to write (default: report.html in the last RUN)",
    )
    add("--title", help="heading of the page")
    add("--table", action="store_true", help="also print the table")
    add(
        "--group-by",
        choices=("seed",),
        help="also write and print a table in which the runs that differ only in their seed are "
        "one row: mean, standard deviation and spread",
    )
    add(
        "--csv",
        type=Path,
        metavar="F",
        help="also write the results as CSV, one row each; - is standard output",
    )
    add(
        "--json",
        type=Path,
        metavar="F",
        help="also write the same rows as JSON; - is standard output",
    )
    add(
        "--latex",
        type=Path,
        metavar="F",
        help="also write the table for a paper (booktabs); with --group-by seed the table "
        "over seeds",
    )
    add(
        "--figures",
        type=Path,
        metavar="DIR",
        help="also write each chart as SVG and PDF into this folder (needs matplotlib)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the requested files and print their paths, after the tables."""
    from deploy.core.errors import UsageError
    from deploy.core.files import STDOUT
    from eval.report.results import text_table
    from eval.report.seeds import seeds_tables
    from eval.stages.report import DataFiles, records_of_all, write_data
    from qadtr.functions.report import report

    out: Path = arguments.out or arguments.runs[-1] / "report.html"
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"--out expects a page, FILE.html, got {out}; for data use --csv, --json or --latex "
            "FILE, for charts --figures DIR"
        )
    to = shared.settings_of(DataFiles, arguments)
    if [to.csv, to.json, to.latex].count(STDOUT) > 1:
        raise UsageError("only one of --csv, --json and --latex can be -, standard output")
    by_seed = arguments.group_by == "seed"
    records = records_of_all(arguments.runs)
    # What is written to standard output is alone there.
    said = sys.stderr if STDOUT in (to.csv, to.json, to.latex) else sys.stdout
    written = [report(arguments.runs, out, title=arguments.title, by_seed=by_seed)]
    written += write_data(records, to, by_seed=by_seed)
    if arguments.table:
        print(text_table(records), end="\n\n", file=said)
    if by_seed:
        tables = seeds_tables(records)
        print("\n\n".join(table.text() for table in tables), end="\n\n", file=said)
    for path in written:
        if path != STDOUT:
            print(path, file=said)
    return 0
