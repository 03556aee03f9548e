"""One chart of lines with intervals as inline SVG: shares of 0 to 100% over named places on x."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deploy.core.bit_widths import bits_label, bits_words
from deploy.core.html import Html, join, tag
from eval.measure.analyses.means import Mean
from eval.report.document import captioned, small
from eval.report.pictures import drawing, label
from eval.report.words import interval, percent

_WIDTH, _HEIGHT = 480.0, 280.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 12.0, 10.0, 42.0
_SERIES_COLOURS = 6
_MARKERS = ("circle", "square", "triangle", "diamond")
# Lines at one place stand a little apart, so that their intervals can be told apart, but together
# they take no more than so much of the way to the next place.
_DODGE_PX = 9.0
_DODGE_SHARE = 0.6


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a line.

    Attributes:
        x: a value of the axis.
        share: 0…1 with n and interval; an evaluation's share will do.
        mark: a sign beside the point that the text below the chart explains.
    """

    x: int
    share: Mean
    mark: str = ""

    @property
    def rate(self) -> str:
        """The share in per cent, with the mark."""
        return f"{percent(self.share['value'])}{self.mark}"


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line."""

    name: str
    colour: str
    marker: str
    points: tuple[Point, ...]
    dashed: bool = False

    @property
    def stroke(self) -> dict[str, str | None]:
        """Attributes of its line."""
        dash = "5 4" if self.dashed else None
        return {"stroke": self.colour, "stroke_width": "1.8", "stroke_dasharray": dash}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What lies along x: its name, and the words for each value, in order, as they are written
    and as they are read aloud, with a space at the end."""

    name: str
    words: Mapping[int, str]
    spoken: Mapping[int, str]

    @property
    def step(self) -> float:
        """From one value to the next, in pixels."""
        return (_WIDTH - _LEFT - _RIGHT) / len(self.words)

    def place(self, value: int) -> float:
        """x of a value, in pixels."""
        return _LEFT + (list(self.words).index(value) + 0.5) * self.step


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What a chart shows, whoever draws it.

    Attributes:
        title, detail: the two lines of the caption.
        about: the drawing's own title, read aloud first.
        note: what the marks of its points mean.
    """

    title: str
    detail: str
    axis: Axis
    series: tuple[Series, ...]
    about: str
    note: str = ""

    def html(self) -> Html:
        """The chart as a figure with caption and legend."""
        return line_chart(
            self.title, self.detail, self.axis, self.series, about=self.about, note=self.note
        )


def bit_width_axis(bit_widths: Iterable[int]) -> Axis:
    """The bit-widths, narrowest first."""
    widths = sorted(bit_widths)
    return Axis(
        name="bit-width of weights and activations",
        words={bits: bits_label(bits) for bits in widths},
        spoken={bits: f"{bits_words(bits)} " for bits in widths},
    )


def drawn_series(index: int, name: str, points: Sequence[Point]) -> Series:
    """The line at position ``index``, with its own colour and marker."""
    return Series(
        name=name,
        colour=f"var(--series-{index % _SERIES_COLOURS})",
        marker=_MARKERS[index % len(_MARKERS)],
        points=tuple(points),
    )


def baseline(name: str, points: Sequence[Point], *, marker: str = "cross") -> Series:
    """A grey dashed line: what the others are to be compared with."""
    return Series(
        name=name, colour="var(--floor)", marker=marker, points=tuple(points), dashed=True
    )


def line_chart(
    title: str,
    detail: str,
    axis: Axis,
    series: Sequence[Series],
    *,
    about: str,
    note: str = "",
) -> Html:
    """The chart as a figure with caption and legend.

    Args:
        about: the SVG's own title, read aloud first.
        note: what the marks of its points mean.
    """
    lines = [_drawn(one, i, len(series), axis) for i, one in enumerate(series)]
    svg = drawing(
        about, _described(series, axis.spoken), _axes(axis), lines, width=_WIDTH, height=_HEIGHT
    )
    legend = tag("ul", [_legend(one) for one in series], class_="legend")
    return captioned(title, detail, svg, legend, small(note) if note else "")


def _described(series: Sequence[Series], spoken: Mapping[int, str]) -> str:
    """The chart in words, for those who do not see it."""
    return " ".join(
        f"{one.name}: "
        + ", ".join(
            f"{spoken[point.x]}{point.rate} ({interval(point.share)})"
            for point in sorted(one.points, key=lambda point: point.x)
        )
        + "."
        for one in series
    )


def _y(value: float) -> float:
    return _TOP + (1 - value) * (_HEIGHT - _TOP - _BOTTOM)


def _axes(axis: Axis) -> Html:
    parts: list[Html] = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(tick)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(label(f"{100 * tick:.0f}%", _LEFT - 6, y + 4, "end"))
    for value, words in axis.words.items():
        parts.append(label(words, axis.place(value), _HEIGHT - _BOTTOM + 18, "middle"))
    bottom = _y(0.0)
    parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(label(axis.name, middle, _HEIGHT - 6, "middle"))
    return join(parts)


def _drawn(series: Series, index: int, count: int, axis: Axis) -> Html:
    apart = min(_DODGE_PX, _DODGE_SHARE * axis.step / count)
    offset = (index - (count - 1) / 2) * apart
    places = sorted(
        ((axis.place(point.x) + offset, point) for point in series.points),
        key=lambda place: place[0],
    )
    line = "M" + " L".join(f"{x:.1f} {_y(point.share['value']):.1f}" for x, point in places)
    marks = [
        tag(
            "g",
            tag(
                "title",
                f"{series.name}, {axis.words[point.x]}: {point.rate} "
                f"({interval(point.share)}, n = {point.share['n']})",
            ),
            _whisker(x, point.share, series.colour),
            _marker(series.marker, x, _y(point.share["value"]), series.colour),
            label(point.mark, x + 5, _y(point.share["value"]) - 5, "start") if point.mark else "",
        )
        for x, point in places
    ]
    return tag("g", tag("path", d=line, fill="none", **series.stroke), marks)


def _whisker(x: float, share: Mean, colour: str) -> Html:
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


def _legend(series: Series) -> Html:
    line = tag("line", x1="0", x2="26", y1="6", y2="6", **series.stroke)
    marker = _marker(series.marker, 13.0, 6.0, series.colour)
    icon = tag("svg", line, marker, viewBox="0 0 26 12", aria_hidden="true")
    return tag("li", icon, series.name)
