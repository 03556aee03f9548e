"""ASR over bit-width, and over patch size, as inline SVG: one line a model, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.evaluation_record import Share
from eval.report.html import Html, join, tag
from eval.report.numbers import interval, percent
from eval.report.rows import FLOAT_BITS, Cell, PatchColumn, ResultTable, Row, bits_label

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


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """What lies along x: its name, and the words for each value, in order."""

    name: str
    words: Mapping[int, str]

    def place(self, value: int) -> float:
        """x of a value, in pixels."""
        step = (_WIDTH - _LEFT - _RIGHT) / len(self.words)
        return _LEFT + (list(self.words).index(value) + 0.5) * step


def curves(table: ResultTable) -> Html:
    """All charts of a table; nothing where no patch was tried at two bit-widths or in two sizes."""
    engines = list(dict.fromkeys(row.model["engine"] for row in table.rows))
    on = {e: [row for row in table.rows if row.model["engine"] == e] for e in engines}
    charts = [_over_bit_width(c, e, on[e]) for c in table.columns for e in engines]
    charts += [_over_size(c, e, on[e]) for c in _families(table.columns) for e in engines]
    shown = [chart for chart in charts if chart is not None]
    return tag("div", shown, class_="charts") if shown else Html("")


def _over_bit_width(column: PatchColumn, engine: str, rows: Sequence[Row]) -> Html | None:
    tried = [row for row in rows if column.key in row.cells]
    bit_widths = sorted({row.model["bit_width"] for row in tried})
    if len(bit_widths) < 2:
        return None
    axis = _Axis(
        name="bit-width of weights and activations",
        words={bits: bits_label(bits) for bits in bit_widths},
    )
    spoken = {b: f"{bits_label(b)} {'' if b == FLOAT_BITS else 'bits '}" for b in bit_widths}
    points = [(row.label, row.model["bit_width"], row.cells[column.key]) for row in tried]
    return _chart(f"{column.title} on {engine}", column.detail, axis, spoken, points)


def _families(columns: Sequence[PatchColumn]) -> list[list[PatchColumn]]:
    """Columns that differ in size alone, two or more of them, smallest first."""
    families: dict[tuple[object, ...], list[PatchColumn]] = {}
    for column in columns:
        facts = column.facts
        same = [facts[key] for key in ("attack", "kind", "shape", "target", "placement")]
        source = tuple(map(str, facts["source"].items()))
        families.setdefault((*same, source), []).append(column)
    several = [sorted(f, key=_side) for f in families.values() if len({_side(c) for c in f}) > 1]
    return [family for family in several if family[0].facts["attack"] is not None]


def _side(column: PatchColumn) -> int:
    return column.facts["size_px"][0]


def _over_size(family: Sequence[PatchColumn], engine: str, rows: Sequence[Row]) -> Html | None:
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
    axis = _Axis(name="side of the patch", words=sides)
    points = [
        (f"{row.label}, {row.bits_label}", _side(column), row.cells[column.key])
        for row in narrowest.values()
        for column in family
    ]
    spoken = {side: f"{words} " for side, words in sides.items()}
    first = family[0]
    attack = first.title.rsplit(" ", 1)[0]
    detail = first.detail.split("), ", 1)[-1]
    return _chart(f"{attack}, by size, on {engine}", detail, axis, spoken, points)


def _chart(
    title: str,
    detail: str,
    axis: _Axis,
    spoken: Mapping[int, str],
    points: Sequence[tuple[str, int, Cell]],
) -> Html:
    series = _series(points)
    over = "bit-width" if "bit-width" in axis.name else "size"
    svg = tag(
        "svg",
        tag("title", f"Attack success rate over {over}: {title}"),
        tag("desc", _described(series, spoken)),
        _axes(axis),
        [_drawn(one, i, len(series), axis) for i, one in enumerate(series)],
        viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}",
        role="img",
    )
    return tag(
        "figure",
        tag("figcaption", tag("strong", title), tag("br"), _soft(detail)),
        svg,
        tag("ul", [_legend(one) for one in series], class_="legend"),
    )


def _series(points: Sequence[tuple[str, int, Cell]]) -> list[_Series]:
    """A line for each label of ``points`` (label, x, cell), and the floor."""
    labels = list(dict.fromkeys(label for label, _, _ in points))
    series = [
        _Series(
            name=label,
            colour=f"var(--series-{i % _SERIES_COLOURS})",
            marker=_MARKERS[i % len(_MARKERS)],
            points=tuple((x, cell.asr) for name, x, cell in points if name == label),
        )
        for i, label in enumerate(labels)
    ]
    # One floor a chart, the highest at each x: what an attack must beat on every model.
    floors: dict[int, Share] = {}
    for _, x, cell in points:
        if x not in floors or cell.floor["value"] > floors[x]["value"]:
            floors[x] = cell.floor
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


def _described(series: Sequence[_Series], spoken: Mapping[int, str]) -> str:
    """The chart in words, for those who do not see it."""
    return " ".join(
        f"{one.name}: "
        + ", ".join(
            f"{spoken[x]}{percent(share['value'])} ({interval(share)})"
            for x, share in sorted(one.points, key=lambda point: point[0])
        )
        + "."
        for one in series
    )


def _y(value: float) -> float:
    return _TOP + (1 - value) * (_HEIGHT - _TOP - _BOTTOM)


def _axes(axis: _Axis) -> Html:
    parts: list[Html] = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(tick)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(_text(f"{100 * tick:.0f}%", _LEFT - 6, y + 4, "end"))
    for value, words in axis.words.items():
        parts.append(_text(words, axis.place(value), _HEIGHT - _BOTTOM + 18, "middle"))
    bottom = _y(0.0)
    parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(_text(axis.name, middle, _HEIGHT - 6, "middle"))
    return join(parts)


def _text(text: str, x: float, y: float, anchor: str) -> Html:
    return tag("text", text, x=x, y=y, text_anchor=anchor, class_="soft", aria_hidden="true")


def _drawn(series: _Series, index: int, count: int, axis: _Axis) -> Html:
    offset = (index - (count - 1) / 2) * _DODGE_PX
    places = sorted(
        ((axis.place(x) + offset, axis.words[x], share) for x, share in series.points),
        key=lambda place: place[0],
    )
    line = "M" + " L".join(f"{x:.1f} {_y(share['value']):.1f}" for x, _, share in places)
    marks = [
        tag(
            "g",
            tag(
                "title",
                f"{series.name}, {words}: {percent(share['value'])} "
                f"({interval(share)}, n = {share['n']})",
            ),
            _whisker(x, share, series.colour),
            _marker(series.marker, x, _y(share["value"]), series.colour),
        )
        for x, words, share in places
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
