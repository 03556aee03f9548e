"""Maps of places on the image as inline SVG: one square for each place of a grid, shaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.core.errors import InputError
from deploy.core.html import Html, join, tag
from eval.report.document import captioned
from eval.report.pictures import drawing, label

_CELL_PX = 34.0
_LEFT_PX, _TOP_PX = 26.0, 18.0
_MOST_WRITTEN = 9
"""Columns up to which each square has its figure written into it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place of the grid.

    Attributes:
        shade: −1…1; 0 is the ground's colour, 1 the warm one, −1 the cold one.
        written: the figure inside the square.
        spoken: the figure with interval, for the tooltip.
    """

    shade: float
    written: str
    spoken: str


def place_map(
    title: str,
    detail: str,
    *,
    tops_px: Sequence[int],
    lefts_px: Sequence[int],
    places: Sequence[Sequence[Place]],
    about: str,
) -> Html:
    """One map as a figure.

    Args:
        tops_px: upper edge of each row, in pixels of the image.
        lefts_px: left edge of each column.
        about: the SVG's own title; its description is made of the largest and least place.
    """
    if {len(row) for row in places} - {len(lefts_px)} or len(places) != len(tops_px):
        raise InputError(
            f"the map in the record of {title!r} does not have its "
            f"{len(tops_px)}×{len(lefts_px)} positions: the record was edited or written by "
            "another version; create it again"
        )
    width = _LEFT_PX + _CELL_PX * len(lefts_px)
    height = _TOP_PX + _CELL_PX * len(tops_px)
    found = [
        (place, i, j, f"top {top} px, left {left} px")
        for i, (top, row) in enumerate(zip(tops_px, places, strict=True))
        for j, (left, place) in enumerate(zip(lefts_px, row, strict=True))
    ]
    squares = [_square(*one, written=len(lefts_px) <= _MOST_WRITTEN) for one in found]
    edges = [label(str(one), _x(i), _TOP_PX - 6, "middle") for i, one in enumerate(lefts_px)]
    edges += [label(str(one), _LEFT_PX - 5, _y(i) + 4, "end") for i, one in enumerate(tops_px)]
    ordered = sorted((place.shade, f"{where}, {place.spoken}") for place, _, _, where in found)
    described = f"Largest: {ordered[-1][1]}. Least: {ordered[0][1]}."
    svg = drawing(about, described, edges, squares, width=width, height=height, kind="places")
    return captioned(title, detail, svg)


def _x(column: int) -> float:
    return _LEFT_PX + (column + 0.5) * _CELL_PX


def _y(row: int) -> float:
    return _TOP_PX + (row + 0.5) * _CELL_PX


def _square(place: Place, row: int, column: int, where: str, *, written: bool) -> Html:
    colour = "var(--heat)" if place.shade >= 0 else "var(--cool)"
    share = min(abs(place.shade), 1.0)
    rect = tag(
        "rect",
        x=_x(column) - _CELL_PX / 2,
        y=_y(row) - _CELL_PX / 2,
        width=_CELL_PX,
        height=_CELL_PX,
        class_="place",
        style=f"fill:color-mix(in srgb, {colour} {100 * share:.0f}%, var(--ground))",
    )
    shown = written and place.written
    text = label(shown, _x(column), _y(row) + 4, "middle", None) if shown else ""
    return tag("g", tag("title", f"{where}: {place.spoken}"), join(rect, text))
