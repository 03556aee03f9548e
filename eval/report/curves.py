"""ASR over bit-width as inline SVG: one chart a patch and engine, one line a model, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.evaluation_record import Share
from eval.report.html import Html, join, tag
from eval.report.numbers import interval, percent
from eval.report.rows import PatchColumn, ResultTable, Row, bits_label

_WIDTH, _HEIGHT = 480.0, 280.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 12.0, 10.0, 42.0
_SERIES_COLOURS = 6
_MARKERS = ("circle", "square", "triangle", "diamond")
# Lines at one bit-width stand a little apart, so that their intervals can be told apart.
_DODGE_PX = 9.0


@dataclass(frozen=True, kw_only=True)
class _Series:
    name: str
    colour: str
    marker: str
    points: tuple[tuple[int, Share], ...]
    dashed: bool = False


def curves(table: ResultTable) -> Html:
    """All charts of a table; nothing where no patch was tried at two bit-widths."""
    engines = list(dict.fromkeys(row.model["engine"] for row in table.rows))
    charts = [
        _chart(column, engine, [row for row in table.rows if row.model["engine"] == engine])
        for column in table.columns
        for engine in engines
    ]
    shown = [chart for chart in charts if chart is not None]
    return tag("div", shown, class_="charts") if shown else Html("")


def _chart(column: PatchColumn, engine: str, rows: Sequence[Row]) -> Html | None:
    tried = [row for row in rows if column.key in row.cells]
    bit_widths = sorted({row.model["bit_width"] for row in tried})
    if len(bit_widths) < 2:
        return None
    series = _series(column, tried)
    title = f"{column.title} on {engine}"
    svg = tag(
        "svg",
        tag("title", f"Attack success rate over bit-width: {title}"),
        tag("desc", _described(series)),
        _axes(bit_widths),
        [_drawn(one, i, len(series), bit_widths) for i, one in enumerate(series)],
        viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}",
        role="img",
    )
    return tag(
        "figure",
        tag("figcaption", tag("strong", title), tag("br"), _soft(column.detail)),
        svg,
        tag("ul", [_legend(one) for one in series], class_="legend"),
    )


def _series(column: PatchColumn, rows: Sequence[Row]) -> list[_Series]:
    labels = list(dict.fromkeys(row.label for row in rows))
    series = [
        _Series(
            name=label,
            colour=f"var(--series-{i % _SERIES_COLOURS})",
            marker=_MARKERS[i % len(_MARKERS)],
            points=tuple(
                (row.model["bit_width"], row.cells[column.key].asr)
                for row in rows
                if row.label == label
            ),
        )
        for i, label in enumerate(labels)
    ]
    # One floor a chart, the highest at each bit-width: what an attack must beat on every model.
    floors: dict[int, Share] = {}
    for row in rows:
        floor = row.cells[column.key].floor
        bits = row.model["bit_width"]
        if bits not in floors or floor["value"] > floors[bits]["value"]:
            floors[bits] = floor
    series.append(
        _Series(
            name="random patch (highest of the models)",
            colour="var(--floor)",
            marker="cross",
            points=tuple(floors.items()),
            dashed=True,
        )
    )
    return series


def _described(series: Sequence[_Series]) -> str:
    """The chart in words, for those who do not see it."""
    return " ".join(
        f"{one.name}: "
        + ", ".join(
            f"{bits_label(bits)} {'' if bits == 32 else 'bits '}{percent(share['value'])} "
            f"({interval(share)})"
            for bits, share in sorted(one.points, key=lambda point: point[0])
        )
        + "."
        for one in series
    )


def _x(bits: int, bit_widths: Sequence[int]) -> float:
    step = (_WIDTH - _LEFT - _RIGHT) / len(bit_widths)
    return _LEFT + (bit_widths.index(bits) + 0.5) * step


def _y(value: float) -> float:
    return _TOP + (1 - value) * (_HEIGHT - _TOP - _BOTTOM)


def _axes(bit_widths: Sequence[int]) -> Html:
    parts: list[Html] = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(tick)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(_text(f"{100 * tick:.0f}%", _LEFT - 6, y + 4, "end"))
    for bits in bit_widths:
        parts.append(
            _text(bits_label(bits), _x(bits, bit_widths), _HEIGHT - _BOTTOM + 18, "middle")
        )
    bottom = _y(0.0)
    parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(_text("bit-width of weights and activations", middle, _HEIGHT - 6, "middle"))
    return join(parts)


def _text(text: str, x: float, y: float, anchor: str) -> Html:
    return tag("text", text, x=x, y=y, text_anchor=anchor, class_="soft", aria_hidden="true")


def _drawn(series: _Series, index: int, count: int, bit_widths: Sequence[int]) -> Html:
    offset = (index - (count - 1) / 2) * _DODGE_PX
    places = sorted((_x(bits, bit_widths) + offset, bits, share) for bits, share in series.points)
    line = "M" + " L".join(f"{x:.1f} {_y(share['value']):.1f}" for x, _, share in places)
    marks = [
        tag(
            "g",
            tag(
                "title",
                f"{series.name}, {bits_label(bits)}: {percent(share['value'])} "
                f"({interval(share)}, n = {share['n']})",
            ),
            _whisker(x, share, series.colour),
            _marker(series.marker, x, _y(share["value"]), series.colour),
        )
        for x, bits, share in places
    ]
    return tag(
        "g",
        tag(
            "path",
            d=line,
            fill="none",
            stroke=series.colour,
            stroke_width="1.8",
            stroke_dasharray="5 4" if series.dashed else None,
        ),
        marks,
    )


def _whisker(x: float, share: Share, colour: str) -> Html:
    low, high = _y(share["low"]), _y(share["high"])
    path = f"M{x:.1f} {low:.1f} V{high:.1f} M{x - 3:.1f} {low:.1f} h6 M{x - 3:.1f} {high:.1f} h6"
    return tag("path", d=path, stroke=colour, stroke_width="1.2", fill="none")


def _marker(kind: str, x: float, y: float, colour: str) -> Html:
    if kind == "circle":
        return tag("circle", cx=x, cy=y, r="4", fill=colour)
    if kind == "square":
        return tag("rect", x=x - 3.5, y=y - 3.5, width="7", height="7", fill=colour)
    if kind == "cross":
        path = f"M{x - 3.5:.1f} {y - 3.5:.1f} l7 7 m0 -7 l-7 7"
        return tag("path", d=path, stroke=colour, stroke_width="1.8", fill="none")
    shapes = {
        "triangle": f"M{x:.1f} {y - 4.5:.1f} l4.5 8 h-9 z",
        "diamond": f"M{x:.1f} {y - 5:.1f} l5 5 l-5 5 l-5 -5 z",
    }
    return tag("path", d=shapes[kind], fill=colour)


def _legend(series: _Series) -> Html:
    dash = "5 4" if series.dashed else None
    icon = tag(
        "svg",
        tag(
            "line",
            x1="0",
            x2="26",
            y1="6",
            y2="6",
            stroke=series.colour,
            stroke_width="1.8",
            stroke_dasharray=dash,
        ),
        _marker(series.marker, 13.0, 6.0, series.colour),
        viewBox="0 0 26 12",
        aria_hidden="true",
    )
    return tag("li", icon, series.name)


def _soft(text: str) -> Html:
    return tag("span", text, class_="soft small")
