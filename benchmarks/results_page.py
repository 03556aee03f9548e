"""docs/results.md, docs/results/ and the README's results, from the records in results/.

    python -m benchmarks.results_page [--check]

Every figure there is made by this command. ``results/GROUP/RUN/records`` holds the records of
`qadtr eval`, `certify`, `checks`, `export` and `parity`, ``about.md`` beside them what they do not
say by themselves; ``results/export`` and ``results/engines`` the records of `python -m
benchmarks.export_table`; ``results/benchmarks/*.json`` what the benchmarks wrote. A record of a
dirty tree is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.pages import keep_pages
from benchmarks.records import ROOT
from benchmarks.results_compared import results_of
from benchmarks.results_first import PLOT, first_chart, first_page, readme_part
from benchmarks.results_topics import TOPICS, require_topics, topic_page
from deploy.core.errors import InputError
from eval.report.figures import chart_bytes

RESULTS = ROOT / "results"
README = Path("README.md")
FIRST, TOPIC_PAGES = Path("docs") / "results.md", Path("docs") / "results"
HEADING = "## What it has found so far"
"""Of the README's part; what is below it, up to the next heading, is made here."""

PLOT_INCHES = (7.0, 4.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages, or with ``--check`` say whether they are those that the records give."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results_page")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if one is stale")
    arguments = parser.parse_args(argv)
    pages = results_pages(RESULTS, (ROOT / README).read_text(encoding="utf-8"))
    there = [path.relative_to(ROOT) for path in (ROOT / TOPIC_PAGES).glob("*")]
    return keep_pages(pages, check=arguments.check, there=there)


def results_pages(folder: Path, readme: str) -> dict[Path, bytes]:
    """Each file that is made of the records, by its path in the repository.

    Args:
        folder: results/.
        readme: the README as it is.

    Raises:
        InputError: a record is damaged or of a dirty tree, there are too few, a folder is on no
            page, or the README lacks its heading.
    """
    require_topics(folder)
    results = results_of(folder)
    before, heading, after = readme.partition(f"{HEADING}\n")
    if not heading:
        raise InputError(f"README.md has no heading {HEADING!r}")
    _, next_heading, rest = after.partition("\n## ")
    found = f"{before}{heading}\n{readme_part(results)}\n{next_heading}{rest}"
    texts = {
        README: found,
        FIRST: first_page(results),
        **{TOPIC_PAGES / f"{topic.name}.md": topic_page(topic, folder) for topic in TOPICS},
    }
    plot = chart_bytes(first_chart(results), "svg", size_inches=PLOT_INCHES)
    return {**{path: text.encode() for path, text in texts.items()}, TOPIC_PAGES / PLOT: plot}


if __name__ == "__main__":
    sys.exit(main())
