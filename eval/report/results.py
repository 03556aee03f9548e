"""The main table: as text for the terminal, and for the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND, MARK
from deploy.core.bit_widths import bits_words
from deploy.core.html import Child, Html, join, tag
from deploy.core.table import Cell, Table
from eval.measure.checks.checks_record import AttackChecks, attack_checks_from_records
from eval.measure.proofs import Proofs
from eval.report.document import facts, verdict
from eval.report.misfits import refuses_misfits
from eval.report.proofs import proof_lines
from eval.report.rows import PatchResult, ResultTable, Row, tables_from_records
from eval.report.words import MISSING, interval, latency, percent, points, rate, size, size_ratio

_TERMS = {
    "Attack success rate (ASR)": (
        "share of images whose prediction the patch changes (for a patch with a target class: "
        "turns into the target), among the images that this model on this engine classifies "
        "correctly without the patch (with a target class: and that are not of that class). "
        "Lower is better for the model."
    ),
    "Interval": "95% Wilson interval; n is the number of images that the rate is computed over.",
    "Noise": (
        "the same rate with random pixels of the same size and at the same position: the effect "
        "of any patch."
    ),
    "Overlaps noise": (
        "the intervals of patch and noise overlap, so these images do not show that the patch "
        "does more than random pixels."
    ),
    "Drift": (
        "ASR in this engine minus ASR of the fake-quantized network in PyTorch, on the same images."
    ),
    MARK: (
        "a check of the attacks on this network tripped, so the rate is a lower bound on what an "
        "attacker can achieve. The check is listed under “Attack checks”."
    ),
    "Bits": (
        "bit-width of weights and activations of the hidden layers: b-bit codes, int8 arithmetic. "
        "“Float” is the network without quantization."
    ),
    "Not comparable": (
        "the hardened network has lost more than 2 points of clean accuracy against the plain "
        "one; its ASR is shown, but is not evidence for the defense."
    ),
}


@refuses_misfits
def text_table(records: Iterable[Mapping[str, Any]]) -> str:
    """All evaluation records as text, one table for each set of images.

    Per patch: the attack success rate with its 95% interval, then the rate of a random patch of the
    same size. A rate of a model whose attack checks tripped is marked, and what tripped is named
    below the table.

    Raises:
        InputError: a record lacks a field.
        NothingToEvaluate: there is no evaluation record.
    """
    return "\n\n".join(table.text() for table in result_tables(records))


def result_tables(records: Iterable[Mapping[str, Any]]) -> list[Table]:
    """The tables of :func:`text_table`, for other writers; errors as there."""
    records = list(records)
    checks = attack_checks_from_records(records)
    return [_for_terminal(table, checks) for table in tables_from_records(records)]


def _for_terminal(table: ResultTable, checks: AttackChecks) -> Table:
    several = len(table.engines) > 1
    columns = ["network", "bits", "clean"]
    for letter in table.legend:
        columns += [f"{letter}: ASR (95%)", "noise"]
    columns += ["size", "of float", "latency", "engine" if several else "", ""]
    rows = [[*_plain_cells(row, table, several)] for row in table.rows]
    shown = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    into = any(column.facts["target"] is not None for column in table.columns)
    explained = (
        f"ASR: share of the images right without the patch{_counts(table)} that the patch turns "
        f"wrong{' (into its target)' if into else ''}."
    )
    marked = [
        f"* not comparable: {row.label}, {bits_words(row.model['bit_width'])}: clean "
        f"accuracy {row.points_under_plain:.1f} points under plain QAT (at most 2)."
        for row in table.rows
        if row.comparability == "not comparable"
    ]
    legend = [f"{letter}: {patch}" for letter, patch in table.legend.items()]
    noise = "noise: the same rate with random pixels as the patch."
    return Table(
        title=f"{table.images_name}, {table.split} split, {table.n:,} images"
        + ("" if several else f", engine {table.engines[0]}"),
        columns=[columns[i] for i in shown],
        rows=[[row[i] for i in shown] for row in rows],
        align="lr",
        grouped=True,
        notes=[*legend, explained, noise, *table.trainings, *marked, *_checked(table, checks)],
    )


def _counts(table: ResultTable) -> str:
    n = sorted(cell.asr["n"] for row in table.rows for cell in row.cells.values())
    if not n:
        return ""
    return f" (n = {n[0]:,})" if n[0] == n[-1] else f" (n = {n[0]:,} to {n[-1]:,})"


def _plain_cells(row: Row, table: ResultTable, several_engines: bool) -> Iterable[str]:
    yield from (row.label, row.bits_label, percent(row.clean["value"]))
    for column in table.columns:
        cell = row.cells.get(column.key)
        yield MISSING if cell is None else rate(cell.asr, cell.mark)
        yield MISSING if cell is None else percent(cell.floor["value"])
    yield from (size(row.model["file_size_bytes"]), size_ratio(row.size_ratio))
    yield latency(row.latency)
    yield row.model["engine"] if several_engines else ""
    yield "*" if row.comparability == "not comparable" else ""


def _checked(table: ResultTable, checks: AttackChecks) -> list[str]:
    """A line for each row on its attack checks; nothing where no row was checked."""
    if all(checks.of(row.model) is None for row in table.rows):
        return []
    said: dict[tuple[str, str], dict[str, None]] = {}
    for row in table.rows:
        words = f"{checks.mark(row.model)} {checks.words(row.model)}".strip()
        said.setdefault((row.label, words), {})[row.bits_label] = None
    return [
        "",
        f"Attack checks (docs/checks.md). {LOWER_BOUND}",
        *(
            f"{label}, {', '.join(widths)}{'' if [*widths] == ['float'] else ' bits'}: {words}"
            for (label, words), widths in said.items()
        ),
    ]


def result_section(table: ResultTable, proofs: Proofs) -> Html:
    """One table of results for the page."""
    engines = list(dict.fromkeys(map(_engine, table.rows)))
    ways = list(dict.fromkeys(_timed(row) for row in table.rows if row.latency is not None))
    title = f"{table.images_name}, {table.split} split, {table.n:,} images."
    if len(engines) == 1:
        title += f" Engine: {engines[0]}."
    if len(ways) == 1:
        title += f" Latency: median and 95th percentile, {ways[0]}."
    several = len(engines) > 1
    columns: list[Cell | str] = ["Network", "Bits", *(["Engine"] if several else [])]
    columns += ["Clean accuracy", *(_two_lines(c.title, c.detail) for c in table.columns)]
    return Table(
        title=title,
        columns=[*columns, "File", "Latency", "Certificate, parity"],
        rows=[
            [
                Cell(row.label, html=join(row.label, _marks(row))),
                row.bits_label,
                *([_engine(row)] if several else []),
                _clean(row),
                *(_cell(row, row.cells.get(column.key)) for column in table.columns),
                _two_lines(
                    size(row.model["file_size_bytes"]),
                    f"{size_ratio(row.size_ratio)} of float" if row.size_ratio else "",
                ),
                _latency(row, say_how=len(ways) > 1),
                Cell("", html=proof_lines(proofs, row.model)),
            ]
            for row in table.rows
        ],
        align="lr" + "l" * several + "r" + "l" * len(table.columns) + "rrl",
        notes=table.trainings,
        grouped=True,
    ).html(about=f"Results on {table.images_name}, {table.split} split", frame="scroll wide")


def _engine(row: Row) -> str:
    return f"{row.model['engine']} {row.model['engine_version']}"


def _timed(row: Row) -> str:
    facts = row.latency
    assert facts is not None
    threads = "1 thread" if facts["threads"] == 1 else f"{facts['threads']} threads"
    return f"batch {facts['batch_size']} on {threads}"


def _two_lines(first: str, *others: str) -> Cell:
    return Cell(first, html=[first, *(tag("small", text) for text in others if text)])


def _marks(row: Row) -> Child:
    if row.comparability == "not comparable":
        return tag("small", verdict("not comparable", "bad"))
    if row.comparability == "no baseline":
        return tag("small", verdict("no plain row beside it", "warn"))
    return ""


def _clean(row: Row) -> Cell:
    under = row.points_under_plain
    return _two_lines(
        percent(row.clean["value"]),
        f"{interval(row.clean)} · n {row.clean['n']:,}",
        "" if under is None else f"{points(-under)} points to plain",
    )


def _cell(row: Row, cell: PatchResult | None) -> Cell:
    if cell is None:
        return Cell(MISSING, kind="asr")
    bar = f"--share:{100 * cell.asr['value']:.1f}%"
    drift = cell.drift_points
    parts: list[Child] = [
        tag("strong", cell.rate),
        "" if cell.above_floor else join(" ", verdict("overlaps noise", "")),
        tag("span", class_="bar", style=bar, aria_hidden="true"),
        tag("small", f"{interval(cell.asr)} · n {cell.asr['n']:,}"),
        tag("small", f"noise {percent(cell.floor['value'])} ({interval(cell.floor)})"),
        "" if drift is None else tag("small", f"drift {points(drift)} points"),
    ]
    aside = row.comparability == "not comparable"
    return Cell(cell.rate, html=parts, kind="asr aside" if aside else "asr")


def _latency(row: Row, *, say_how: bool) -> Cell:
    found = row.latency
    if found is None:
        return Cell(MISSING)
    return _two_lines(
        latency(found), f"p95 {found['p95_ms']:.2f} ms", _timed(row) if say_how else ""
    )


def reading_aid() -> Html:
    """The words of the table, for those who meet them first."""
    return join(tag("h3", "How to read the table"), facts(list(_TERMS.items())))
