"""The stage "report": the records and patches of runs as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.core.errors import InputError
from deploy.core.files import write_atomic
from deploy.core.patch_set import patch_files_of, read_patch_set
from deploy.core.records import read_records
from eval.report.gallery import Picture, patch_picture
from eval.report.page import render_report


def write_report(
    folders: Path | Sequence[Path], out_path: Path, *, title: str | None = None
) -> Path:
    """Read the records of one or more runs and write the page.

    Args:
        folders: run folders (with `records/`, and `patches/` for the gallery), or folders of
            records; several are put into one report.
        out_path: the HTML file; written atomically.
        title: heading; by default from the names of the folders.

    Returns:
        `out_path`.

    Raises:
        InputError: a folder, a record or a patch set is missing or damaged.
        NothingToEvaluate: there is no evaluation record.
    """
    places = list(dict.fromkeys([folders] if isinstance(folders, Path) else folders))
    records: list[dict[str, Any]] = []
    pictures: list[Picture] = []
    for place in places:
        records += records_of(place)
        files = patch_files_of(place / "patches")
        pictures += [patch_picture(read_patch_set(path)) for path in files]
    records.sort(key=lambda record: str(record["provenance"].get("date", "")))
    names = ", ".join(dict.fromkeys(place.resolve().name for place in places))
    title = f"Patch robustness: {names}" if title is None else title
    write_atomic(out_path, render_report(records, title=title, pictures=pictures).encode())
    return out_path


def records_of(place: Path) -> list[dict[str, Any]]:
    """A run's records; none of a run that only made patches; else the folder itself is records.

    Raises:
        InputError: there is no such folder, or a record is damaged.
    """
    if not place.is_dir():
        raise InputError(f"{place} is not a folder; expected a run with records/ in it.")
    if (place / "records").is_dir():
        return read_records(place / "records")
    is_run = (place / "patches").is_dir() or (place / "checkpoint.json").exists()
    return [] if is_run else read_records(place)
