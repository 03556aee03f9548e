"""The whole report as one HTML page that needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.core.errors import InputError
from deploy.core.files import write_atomic
from deploy.core.records import read_records
from eval.measure.adaptive.adaptive_record import adaptive_from_records
from eval.measure.checks.checks_record import attack_checks_from_records
from eval.measure.evaluation_record import KIND, EvaluationRecord
from eval.measure.proofs import proofs_from_records
from eval.report.adaptive import adaptive_section
from eval.report.analyses import analyses_section
from eval.report.attack_checks import checks_section
from eval.report.curves import curves
from eval.report.document import document
from eval.report.examples import read_examples
from eval.report.gallery import gallery
from eval.report.heat_maps import heat_maps
from eval.report.html import Html, join, tag
from eval.report.matrices import matrices_of
from eval.report.pictures import Picture, patch_pictures
from eval.report.pixel_curves import pixel_curves
from eval.report.proofs import proof_section
from eval.report.provenance import provenance_section
from eval.report.results import reading_aid, result_section
from eval.report.rows import ResultTable, tables_from_records
from eval.report.summary import summary
from training.record_types import payloads


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
        InputError: a folder or a record is missing or damaged.
        NothingToEvaluate: there is no evaluation record.
    """
    places = list(dict.fromkeys([folders] if isinstance(folders, Path) else folders))
    records: list[dict[str, Any]] = []
    pictures: list[Picture] = []
    for place in places:
        if not place.is_dir():
            raise InputError(f"{place} is not a folder; expected a run with records/ in it.")
        records += _records_of(place)
        pictures += patch_pictures(place / "patches")
    records.sort(key=lambda record: str(record["provenance"].get("date", "")))
    names = ", ".join(dict.fromkeys(place.resolve().name for place in places))
    page = render_report(
        records,
        title=f"Patch robustness: {names}" if title is None else title,
        pictures=pictures,
    )
    write_atomic(out_path, page.encode())
    return out_path


def _records_of(place: Path) -> list[dict[str, Any]]:
    """A run's records; none of a run that only made patches; else the folder itself is records."""
    if (place / "records").is_dir():
        return read_records(place / "records")
    is_run = (place / "patches").is_dir() or (place / "checkpoint.json").exists()
    return [] if is_run else read_records(place)


def render_report(
    records: Sequence[Mapping[str, Any]], *, title: str, pictures: Iterable[Picture] = ()
) -> str:
    """The page as text; every number in it comes from `records`.

    Args:
        records: as `deploy.core.records.read_records` gives them, oldest first. Read are the
            kinds evaluation, adaptive, attack-checks, certificate, parity, pixel-attack, examples
            and those of `eval.measure.analyses`; others are passed over.
        title: heading.
        pictures: further figures for the gallery (patches).

    Raises:
        InputError: a record lacks a field.
        NothingToEvaluate: there is no evaluation record.
    """
    tables = tables_from_records(records)
    evaluations = payloads(records, KIND, EvaluationRecord)
    proofs = proofs_from_records(records)
    attack_checks = attack_checks_from_records(records)
    pictured = gallery(tuple(pictures), read_examples(records))
    sections = [
        ("summary", "Summary", summary(tables, proofs, adaptive_from_records(records))),
        ("results", "Results", join([result_section(t, proofs) for t in tables], reading_aid())),
        ("curves", "Attack success over bit-width and size", join(_curves(tables))),
        ("adaptive", "An attacker who knows the network", adaptive_section(records)),
        (
            "transfer",
            "Transfer between networks",
            heat_maps(matrices_of(evaluations, attack_checks)),
        ),
        ("attack-checks", "Attack checks", checks_section(attack_checks)),
        ("pixel", "Accuracy under pixel attacks", pixel_curves(records)),
        ("analyses", "Analyses", analyses_section(records)),
        ("gallery", "Patches and patched images", pictured),
        ("engine", "What the engine ran", proof_section(proofs, (e["model"] for e in evaluations))),
        ("provenance", "Where the numbers come from", provenance_section(records, tables)),
    ]
    shown = [(key, name, body) for key, name, body in sections if body]
    return document(
        title,
        tag("a", "To the results", href="#summary", class_="skip"),
        tag(
            "header",
            tag("h1", title),
            tag("p", _subtitle(tables), class_="soft"),
            tag(
                "nav",
                tag("ul", [tag("li", tag("a", n, href=f"#{k}")) for k, n, _ in shown]),
                aria_label="Sections",
            ),
            class_="page",
        ),
        tag(
            "main",
            [
                tag("section", tag("h2", n, id=f"{k}-title"), b, id=k, **_labelled(k))
                for k, n, b in shown
            ],
        ),
        tag(
            "footer",
            tag("p", "Every number on this page comes from a record.", class_="soft small"),
        ),
    )


def _labelled(key: str) -> dict[str, str]:
    return {"aria_labelledby": f"{key}-title"}


def _subtitle(tables: Sequence[ResultTable]) -> str:
    images = "; ".join(f"{t.images_name}, {t.split} split, {t.n:,} images" for t in tables)
    models = len(
        {(r.label, r.model["bit_width"], r.model["engine"]) for t in tables for r in t.rows}
    )
    patches = len({column.key for table in tables for column in table.columns})
    return f"{images}. {models} models, {patches} {'patch' if patches == 1 else 'patches'}."


def _curves(tables: Sequence[ResultTable]) -> list[Html]:
    parts: list[Html] = []
    for table in tables:
        charts = curves(table)
        if charts and len(tables) > 1:
            parts.append(tag("h3", f"{table.images_name}, {table.split} split"))
        parts.append(charts)
    return parts
