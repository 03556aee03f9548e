"""The whole report as one HTML page that needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.core.html import Html, join, tag
from eval.measure.adaptive.adaptive_record import adaptive_from_records
from eval.measure.checks.checks_record import AttackChecks, attack_checks_from_records
from eval.measure.evaluation_record import EvaluationRecord
from eval.measure.examples import read_examples
from eval.measure.proofs import Proofs, proofs_from_records
from eval.report.adaptive import adaptive_section
from eval.report.analyses import analyses_section
from eval.report.attack_checks import checks_section
from eval.report.curves import curves
from eval.report.document import Section, document, small
from eval.report.gallery import Picture, gallery
from eval.report.pixel import pixel_curves
from eval.report.proofs import proof_section
from eval.report.provenance import provenance_section
from eval.report.results import reading_aid, result_section
from eval.report.rows import ResultTable, evaluations_of, tables_from_records
from eval.report.summary import summary
from eval.report.transfer import heat_maps, matrices_of


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the sections are made of."""

    records: Sequence[Mapping[str, Any]]
    pictures: Sequence[Picture]
    tables: Sequence[ResultTable]
    evaluations: Sequence[EvaluationRecord]
    proofs: Proofs
    checks: AttackChecks


def _results(found: _Found) -> Html:
    return join([result_section(table, found.proofs) for table in found.tables], reading_aid())


def _curves(found: _Found) -> Html:
    parts: list[Html] = []
    for table in found.tables:
        charts = curves(table)
        if charts and len(found.tables) > 1:
            parts.append(tag("h3", f"{table.images_name}, {table.split} split"))
        parts.append(charts)
    return join(parts)


_SECTIONS: Sequence[tuple[str, str, Callable[[_Found], Html]]] = (
    (
        "summary",
        "Summary",
        lambda found: summary(found.tables, found.proofs, adaptive_from_records(found.records)),
    ),
    ("results", "Results", _results),
    ("curves", "Attack success over bit-width and size", _curves),
    (
        "adaptive",
        "An attacker who knows the network",
        lambda found: adaptive_section(found.records),
    ),
    (
        "transfer",
        "Transfer between networks",
        lambda found: heat_maps(matrices_of(found.evaluations, found.checks)),
    ),
    ("attack-checks", "Attack checks", lambda found: checks_section(found.checks)),
    ("pixel", "Accuracy under pixel attacks", lambda found: pixel_curves(found.records)),
    ("analyses", "Analyses", lambda found: analyses_section(found.records)),
    (
        "gallery",
        "Patches and patched images",
        lambda found: gallery(found.pictures, read_examples(found.records)),
    ),
    (
        "engine",
        "What the engine ran",
        lambda found: proof_section(found.proofs, (e["model"] for e in found.evaluations)),
    ),
    (
        "provenance",
        "Where the numbers come from",
        lambda found: provenance_section(found.records, found.tables),
    ),
)
"""Of each section its id, its title, and what makes it; one with nothing to show is left out."""


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
    found = _Found(
        records=records,
        pictures=tuple(pictures),
        tables=tables_from_records(records),
        evaluations=evaluations_of(records),
        proofs=proofs_from_records(records),
        checks=attack_checks_from_records(records),
    )
    made = [(key, name, make(found)) for key, name, make in _SECTIONS]
    return document(
        title,
        _subtitle(found.tables),
        [Section(key=key, title=name, body=body) for key, name, body in made if body],
        skip="To the results",
        footer=small("Every number on this page comes from a record."),
    )


def _subtitle(tables: Sequence[ResultTable]) -> str:
    images = "; ".join(f"{t.images_name}, {t.split} split, {t.n:,} images" for t in tables)
    models = len(
        {(r.label, r.model["bit_width"], r.model["engine"]) for t in tables for r in t.rows}
    )
    patches = len({column.key for table in tables for column in table.columns})
    return f"{images}. {models} models, {patches} {'patch' if patches == 1 else 'patches'}."
