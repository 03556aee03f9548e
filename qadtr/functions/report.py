"""`qadtr.report`: the records of runs as one page."""

from __future__ import annotations

from pathlib import Path

from eval.stages.report import write_report
from qadtr.functions.inputs import Runs, several
from training.run_folder import RunFolder


def report(
    runs: Runs,
    out: Path | str | None = None,
    *,
    title: str | None = None,
    by_seed: bool = False,
) -> Path:
    """Write one self-contained HTML page from the records of runs.

    Args:
        runs: run folders, or folders of records.
        out: FILE.html; None: ``report.html`` in the last run.
        title: heading of the page.
        by_seed: also a table in which the runs that differ only in their seed are one row.

    Returns:
        The path of the page.

    Raises:
        InputError: a folder or record is missing or damaged.
        NothingToEvaluate: there is no evaluation record.

    Example:
        >>> qadtr.report("runs/own", "report.html").read_text()[:15]
        '<!doctype html>'
    """
    folders = [one.path if isinstance(one, RunFolder) else Path(one) for one in several(runs)]
    page = folders[-1] / "report.html" if out is None else Path(out)
    return write_report(folders, page, title=title, by_seed=by_seed)
