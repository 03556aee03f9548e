"""The whole report as one HTML page that needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.core.html import Html, join, tag
from eval.measure.adaptive.adaptive_record import AdaptiveRecord, adaptive_from_records
from eval.measure.checks.checks_record import attack_checks_from_records
from eval.measure.evaluation_record import KIND, EvaluationRecord
from eval.measure.examples import read_examples
from eval.measure.proofs import proofs_from_records
from eval.report.adaptive import adaptive_section
from eval.report.analyses import analyses_section
from eval.report.attack_checks import checks_section
from eval.report.certification import certification_section
from eval.report.curves import curves
from eval.report.document import Section, document, small
from eval.report.gallery import Picture, gallery
from eval.report.misfits import refuses_misfits
from eval.report.names import names_from_records
from eval.report.pixel import pixel_curves
from eval.report.proofs import proof_section
from eval.report.provenance import provenance_section
from eval.report.results import reading_aid, result_section
from eval.report.rows import ResultTable, tables_from_records
from eval.report.seeds import seeds_table
from eval.report.summary import summary
from eval.report.transfer import heat_maps, matrices_of
from eval.report.words import images_words
from training.record_types import payloads


@refuses_misfits
def render_report(
    records: Sequence[Mapping[str, Any]],
    *,
    title: str,
    pictures: Iterable[Picture] = (),
    by_seed: bool = False,
) -> str:
    """The page as text; every number in it comes from `records`.

    Args:
        records: as `deploy.core.records.read_records` gives them, oldest first. Read are the
            kinds evaluation, adaptive, attack-checks, certificate, certification, parity,
            pixel-attack, examples and those of `eval.measure.analyses`; others are passed over.
        by_seed: also a table whose rows are all runs that differ in their seed alone.

    Raises:
        InputError: a record lacks a field.
        NothingToEvaluate: there is neither an evaluation nor an adaptive one.
    """
    evaluations = payloads(records, KIND, EvaluationRecord)
    adaptive = adaptive_from_records(records)
    # Of a network that was never exported an adaptive evaluation may be all there is.
    tables = tables_from_records(records) if evaluations or not adaptive else ()
    proofs = proofs_from_records(records)
    checks, names = attack_checks_from_records(records), names_from_records(records)
    found = [result_section(table, proofs) for table in tables]
    results = join(found, reading_aid()) if found else Html("")
    seeds = [seeds_table(table).html() for table in tables] if by_seed else []
    transfer = heat_maps(matrices_of(evaluations, checks, names))
    examples = gallery(list(pictures), read_examples(records))
    ran = proof_section(proofs, (evaluation["model"] for evaluation in evaluations))
    # One that has nothing to show is left out.
    sections = (
        ("summary", "Summary", summary(tables, proofs, adaptive) if tables else ""),
        ("results", "Results", results),
        ("seeds", "Over seeds", join(seeds)),
        ("curves", "Attack success over bit-width and size", _curves(tables)),
        ("adaptive", "An attacker who knows the network", adaptive_section(records)),
        ("certified", "What no patch can change", certification_section(records)),
        ("transfer", "Transfer between networks", transfer),
        ("attack-checks", "Attack checks", checks_section(checks, names)),
        ("pixel", "Accuracy under pixel attacks", pixel_curves(records)),
        ("analyses", "Analyses", analyses_section(records)),
        ("gallery", "Patches and patched images", examples),
        ("engine", "What the engine ran", ran),
        ("provenance", "Where the numbers come from", provenance_section(records, tables)),
    )
    return document(
        title,
        _subtitle(tables, adaptive),
        [Section(key=key, title=name, body=body) for key, name, body in sections if body],
        skip="To the results",
        footer=small("Every number on this page comes from a record."),
    )


def _curves(tables: Sequence[ResultTable]) -> Html:
    parts: list[Html] = []
    for table in tables:
        charts = curves(table)
        if charts and len(tables) > 1:
            parts.append(tag("h3", f"{table.images_name}, {table.split} split"))
        parts.append(charts)
    return join(parts)


def _subtitle(tables: Sequence[ResultTable], adaptive: Sequence[AdaptiveRecord]) -> str:
    if not tables:
        return images_words(adaptive[-1]["images"], adaptive[-1]["outcomes"]["n"])
    images = "; ".join(f"{t.images_name}, {t.split} split, {t.n:,} images" for t in tables)
    models = len(
        {(r.label, r.model["bit_width"], r.model["engine"]) for t in tables for r in t.rows}
    )
    patches = len({column.key for table in tables for column in table.columns})
    return f"{images}. {models} models, {patches} {'patch' if patches == 1 else 'patches'}."
