"""The stage "report": records and patches of runs as one HTML page, and the results as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.files import write_atomic, write_to
from deploy.core.patch_set import patch_files_of, read_patch_set
from deploy.core.records import oldest_first, read_records
from eval.measure.adaptive.adaptive_record import KIND as ADAPTIVE
from eval.measure.evaluation_record import KIND as EVALUATION
from eval.report.figures import write_figures
from eval.report.flat import flat_rows, rows_as_csv, rows_as_json
from eval.report.gallery import patch_picture
from eval.report.latex import latex_table
from eval.report.misfits import refuses_misfits
from eval.report.page import render_report
from eval.report.results import result_tables
from eval.report.rows import tables_from_records
from eval.report.seeds import seeds_tables
from training.run_folder import RunFolder, is_run


@dataclass(frozen=True, kw_only=True)
class DataFiles:
    """Where the results go besides the page; None writes none, ``-`` is standard output.

    Attributes:
        csv, json: a flat row for each result (``eval.report.flat``).
        latex: the main table, or the one over seeds.
        figures: a folder, for each chart as SVG and PDF; needs matplotlib.
    """

    csv: Path | None = None
    json: Path | None = None
    latex: Path | None = None
    figures: Path | None = None


def write_report(
    folders: Path | Sequence[Path],
    out_path: Path,
    *,
    title: str | None = None,
    by_seed: bool = False,
) -> Path:
    """Read the records of one or more runs and write the page.

    Args:
        folders: run folders (with `records/`, and `patches/` for the gallery), or folders of
            records; several are put into one report.
        out_path: the HTML file; written atomically.
        title: heading; by default from the names of the folders.
        by_seed: also a table whose rows are all runs that differ in their seed alone.

    Returns:
        `out_path`.

    Raises:
        InputError: a folder, a record or a patch set is missing or damaged.
        NothingToEvaluate: there is no evaluation record.
    """
    places = list(dict.fromkeys([folders] if isinstance(folders, Path) else folders))
    records = records_of_all(places)
    pictures = [
        patch_picture(read_patch_set(path))
        for place in places
        for path in patch_files_of(place / "patches")
    ]
    if not any(record["kind"] in (EVALUATION, ADAPTIVE) for record in records):
        named = ", ".join(map(str, places))
        raise NothingToEvaluate(
            f"there is no evaluation in {named} to report{_what_is_next(places)}"
        )
    names = ", ".join(dict.fromkeys(place.resolve().name for place in places))
    title = f"Patch robustness: {names}" if title is None else title
    page = render_report(records, title=title, pictures=pictures, by_seed=by_seed)
    write_atomic(out_path, page.encode())
    return out_path


@refuses_misfits
def write_data(
    records: Sequence[Mapping[str, Any]], to: DataFiles, *, by_seed: bool = False
) -> list[Path]:
    """Write the results in the forms that are asked for and return the files.

    Args:
        records: oldest first, as :func:`records_of_all` gives them.
        by_seed: the LaTeX table has a row for all runs that differ in their seed alone.

    Raises:
        InputError: a place is not writable, or a record lacks a field.
        NothingToEvaluate: there is no evaluation record.
        ModuleNotFoundError: figures are asked for and matplotlib is not installed.
    """
    written = []
    if to.csv is not None or to.json is not None:
        rows = flat_rows(records)
        for path, form in ((to.csv, rows_as_csv), (to.json, rows_as_json)):
            if path is not None:
                write_to(path, form(rows))
                written.append(path)
    if to.latex is not None:
        tables = seeds_tables(records) if by_seed else result_tables(records)
        write_to(to.latex, "\n".join(map(latex_table, tables)).encode())
        written.append(to.latex)
    if to.figures is not None:
        written += write_figures(tables_from_records(records), to.figures)
    return written


def records_of_all(places: Sequence[Path]) -> list[dict[str, Any]]:
    """The records of several folders, each once, oldest first; errors as :func:`records_of`."""
    return oldest_first(record for place in dict.fromkeys(places) for record in records_of(place))


def _what_is_next(places: Sequence[Path]) -> str:
    """The command that the runs among ``places`` lack most."""
    runs = [RunFolder.open(place) for place in places if is_run(place)]
    if not runs:
        return "; make one with: qadtr eval RUN --patches PATCHES"
    patches = [str(place / "patches") for place in places if patch_files_of(place / "patches")]
    exported = [run for run in runs if run.bit_widths_with_file()]
    if not exported:
        return f"; first export a model: {runs[-1].command('export')}"
    if not patches:
        return f"; first make patches: {runs[0].command('patch', '--attack', runs[0].attack)}"
    return f"; make one with: {exported[-1].command('eval', '--patches', *patches)}"


def records_of(place: Path) -> list[dict[str, Any]]:
    """A run's records; none of a run that only made patches; else the folder itself is records.

    Raises:
        InputError: there is no such folder, or a record is damaged.
    """
    if not place.is_dir():
        raise InputError(f"{place} is not a folder; expected a run with records/ in it.")
    if (place / "records").is_dir():
        return read_records(place / "records")
    made = (place / "patches").is_dir() or (place / "checkpoint.json").exists() or is_run(place)
    return [] if made else read_records(place)
