"""The main table as plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND
from eval.measure.checks.checks_record import AttackChecks, attack_checks_from_records
from eval.report.numbers import MISSING, interval, latency, percent, size, size_ratio
from eval.report.rows import Cell, ResultTable, Row, tables_from_records


def text_table(records: Iterable[Mapping[str, Any]]) -> str:
    """All evaluation records as text, one table for each set of images.

    Per patch: the attack success rate with its 95% interval, then the rate of a random patch of the
    same size. A rate of a model whose attack checks tripped is marked, and what tripped is named
    below the table.

    Raises:
        InputError: a record lacks a field.
        NothingToEvaluate: there is no evaluation record.
    """
    records = list(records)
    checks = attack_checks_from_records(records)
    return "\n\n".join(_one(table, checks) for table in tables_from_records(records))


def _one(table: ResultTable, checks: AttackChecks) -> str:
    engines = list(dict.fromkeys(row.model["engine"] for row in table.rows))
    letters = [_letter(i) for i in range(len(table.columns))]
    headers = ["bits", "clean"]
    for letter in letters:
        headers += [f"{letter}: ASR (95%)", "noise"]
    headers += ["size", "of float", "latency", "engine", ""]
    body = [_cells(row, table) for row in table.rows]
    shown = [
        i
        for i, header in enumerate(headers)
        if (header != "engine" or len(engines) > 1) and any(cells[i] for cells in body)
    ]
    rule, *lines = _aligned([[cells[i] for i in shown] for cells in [headers, *body]])
    grouped: list[str] = [rule, lines[0]]
    previous = ""
    for row, line in zip(table.rows, lines[1:], strict=True):
        if row.label != previous:
            grouped.append(row.label)
            previous = row.label
        grouped.append(line)
    where = f", engine {engines[0]}" if len(engines) == 1 else ""
    title = f"{table.images_name}, {table.split} split, {table.n:,} images{where}"
    legend = [
        f"{letter}: {column.title} px, {column.detail}"
        for letter, column in zip(letters, table.columns, strict=True)
    ]
    explained = [
        f"ASR: of the images right without the patch{_counts(table)}, the share that it turns wrong"
        + (
            " (into its target)."
            if any(c.facts["target"] is not None for c in table.columns)
            else "."
        ),
        "noise: the same with random pixels as the patch.",
    ]
    marked = [
        f"* not comparable: {row.label}, {row.bits_label}{'' if row.is_float else ' bits'}: clean "
        f"accuracy {row.points_under_plain:.1f} points under plain QAT (at most 2)."
        for row in table.rows
        if row.comparability == "not comparable"
    ]
    return "\n".join(
        [title, "", *grouped, "", *legend, *explained, *marked, *_checked(table, checks)]
    )


def _checked(table: ResultTable, checks: AttackChecks) -> list[str]:
    """A line for each row on its attack checks; nothing where no row was checked."""
    if all(checks.of(row.model) is None for row in table.rows):
        return []
    said: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        mark = checks.mark(row.model)
        words = f"{mark} {checks.words(row.model)}" if mark else checks.words(row.model)
        widths = said.setdefault((row.label, words), [])
        if row.bits_label not in widths:
            widths.append(row.bits_label)
    return [
        "",
        f"Attack checks (docs/checks.md). {LOWER_BOUND}",
        *(
            f"{label}, {', '.join(widths)}{'' if widths == ['float'] else ' bits'}: {words}"
            for (label, words), widths in said.items()
        ),
    ]


def _cells(row: Row, table: ResultTable) -> list[str]:
    cells = [row.bits_label, percent(row.clean["value"])]
    for column in table.columns:
        cells += _patch(row.cells.get(column.key))
    return [
        *cells,
        size(row.model["file_size_bytes"]),
        size_ratio(row.size_ratio),
        latency(row.latency),
        row.model["engine"],
        "*" if row.comparability == "not comparable" else "",
    ]


def _letter(index: int) -> str:
    """The name of a column: A to Z, then A1 and on."""
    turn, place = divmod(index, 26)
    return chr(ord("A") + place) + (str(turn) if turn else "")


def _patch(cell: Cell | None) -> list[str]:
    if cell is None:
        return [MISSING, MISSING]
    asr = f"{percent(cell.asr['value'])}{cell.mark} ({interval(cell.asr)})"
    return [asr, percent(cell.floor["value"])]


def _counts(table: ResultTable) -> str:
    n = [cell.asr["n"] for row in table.rows for cell in row.cells.values()]
    if not n:
        return ""
    low, high = min(n), max(n)
    return f" (n = {low:,})" if low == high else f" (n = {low:,} to {high:,})"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Right-aligned columns with two spaces between them, and a rule under the first row."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  "
        + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return [lines[0], "─" * max(len(line) for line in lines), *lines[1:]]
