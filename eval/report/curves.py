"""ASR over bit-width, and over patch size, as inline SVG: one line a model, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.html import Html, tag
from deploy.core.share import Share
from eval.report.attacks import attack_key, attack_settings
from eval.report.line_chart import (
    Axis,
    Chart,
    Point,
    Series,
    baseline,
    bit_width_axis,
    drawn_series,
)
from eval.report.rows import PatchColumn, PatchResult, ResultTable, Row


def curves(table: ResultTable) -> Html:
    """All charts of a table; nothing where no patch was tried at two bit-widths or in two sizes."""
    shown = [chart.html() for chart in charts_of(table)]
    return tag("div", shown, class_="charts") if shown else Html("")


def charts_of(table: ResultTable) -> list[Chart]:
    """The same as data, in the same order."""
    engines = table.engines
    on = {e: [row for row in table.rows if row.model["engine"] == e] for e in engines}
    charts = [_over_bit_width(c, e, on[e]) for c in table.columns for e in engines]
    charts += [_over_size(c, e, on[e]) for c in _families(table.columns) for e in engines]
    return [chart for chart in charts if chart is not None]


def _over_bit_width(column: PatchColumn, engine: str, rows: Sequence[Row]) -> Chart | None:
    tried = [row for row in rows if column.key in row.cells]
    bit_widths = {row.model["bit_width"] for row in tried}
    if len(bit_widths) < 2:
        return None
    points = [(row.label, row.model["bit_width"], row.cells[column.key]) for row in tried]
    return _chart(f"{column.title} on {engine}", column.detail, bit_width_axis(bit_widths), points)


def _families(columns: Sequence[PatchColumn]) -> list[list[PatchColumn]]:
    """Columns that differ in size alone, two or more of them, smallest first."""
    families: dict[tuple[object, ...], list[PatchColumn]] = {}
    for column in columns:
        facts = column.facts
        same = [facts[key] for key in ("attack", "kind", "shape", "target", "placement")]
        source = tuple(map(str, facts["source"].items()))
        attack = attack_key(attack_settings(facts), "size_px")
        families.setdefault((*same, source, attack), []).append(column)
    several = [sorted(f, key=_side) for f in families.values() if len({_side(c) for c in f}) > 1]
    return [family for family in several if family[0].facts["attack"] is not None]


def _side(column: PatchColumn) -> int:
    return column.facts["size_px"][0]


def _over_size(family: Sequence[PatchColumn], engine: str, rows: Sequence[Row]) -> Chart | None:
    """One line a model at its narrowest bit-width: that is where it is deployed."""
    narrowest: dict[str, Row] = {}
    for row in rows:
        if all(column.key in row.cells for column in family):
            before = narrowest.get(row.label)
            if before is None or row.model["bit_width"] < before.model["bit_width"]:
                narrowest[row.label] = row
    if not narrowest:
        return None
    sides = {_side(column): f"{_side(column)} px" for column in family}
    spoken = {side: f"{words} " for side, words in sides.items()}
    axis = Axis(name="side of the patch", words=sides, spoken=spoken)
    points = [
        (f"{row.label}, {row.bits_label}", _side(column), row.cells[column.key])
        for row in narrowest.values()
        for column in family
    ]
    first = family[0]
    attack = first.title.rsplit(" ", 1)[0]
    detail = first.detail.split("), ", 1)[-1]
    return _chart(f"{attack}, by size, on {engine}", detail, axis, points)


def _chart(
    title: str,
    detail: str,
    axis: Axis,
    points: Sequence[tuple[str, int, PatchResult]],
) -> Chart:
    over = "bit-width" if "bit-width" in axis.name else "size"
    about = f"Attack success rate over {over}: {title}"
    note = LOWER_BOUND if any(cell.mark for _, _, cell in points) else ""
    return Chart(
        title=title, detail=detail, axis=axis, series=_series(points), about=about, note=note
    )


def _series(points: Sequence[tuple[str, int, PatchResult]]) -> tuple[Series, ...]:
    """A line for each label of ``points`` (label, x, cell), and the floor."""
    lines: dict[str, list[Point]] = {}
    for label, x, cell in points:
        lines.setdefault(label, []).append(Point(x=x, share=cell.asr, mark=cell.mark))
    series = [drawn_series(i, *line) for i, line in enumerate(lines.items())]
    # One floor a chart, the highest at each x: what an attack must beat on every model.
    floors: dict[int, Share] = {}
    for _, x, cell in points:
        if x not in floors or cell.floor["value"] > floors[x]["value"]:
            floors[x] = cell.floor
    lowest = [Point(x=x, share=floor) for x, floor in floors.items()]
    return (*series, baseline("random patch (highest of the models)", lowest))
