"""Pictures inside the page, so that the report is one file: PNG as data URIs, and inline SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from deploy.core.html import Child, Html, tag
from deploy.core.table import Cell, Table
from eval.measure.analyses.stored_map import map_codes

_RAMP = ((13, 8, 40), (86, 20, 110), (166, 45, 96), (229, 92, 48), (251, 180, 60), (252, 255, 200))
"""Dark violet to pale yellow: lightness rises throughout, in grey print as well."""


def image_tag(png: bytes, alt: str) -> Html:
    """The picture as an element that needs no other file."""
    uri = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return tag("img", src=uri, alt=alt)


def map_table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    *,
    about: str,
) -> Html:
    """Pictures in a table that scrolls on its own.

    Args:
        rows: heading of each row with its stored maps, one a column.
        about: what the maps show, for those who do not see them.

    Raises:
        InputError: a map is damaged.
    """

    def cell(name: str, column: str, one: Mapping[str, Any]) -> Cell:
        words = f"from {one['low']:.3g} to {one['high']:.3g}"
        return Cell(words, html=image_tag(coloured(one), f"{about}, {name}, {column}: {words}"))

    return Table(
        title=caption,
        columns=["", *columns],
        rows=[
            [name, *(cell(name, *one) for one in zip(columns, maps, strict=True))]
            for name, maps in rows
        ],
    ).html(frame="scroll maps")


def coloured(stored: Mapping[str, Any]) -> bytes:
    """A stored map as a PNG with a palette, least value dark, largest pale.

    Raises:
        InputError: the map is damaged.
    """
    image = Image.fromarray(map_codes(stored)).convert("P")
    steps = np.linspace(0.0, 1.0, len(_RAMP))
    places = np.linspace(0.0, 1.0, 256)
    palette = np.stack([np.interp(places, steps, channel) for channel in zip(*_RAMP, strict=True)])
    image.putpalette(np.rint(palette.T).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def drawing(
    about: str, described: str, *parts: Child, width: float, height: float, kind: str | None = None
) -> Html:
    """A drawing of that many units; ``about`` and ``described`` are read aloud in its place."""
    return tag(
        "svg",
        *(tag("title", about), tag("desc", described), *parts),
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        class_=kind,
    )


def label(text: str, x: float, y: float, anchor: str, kind: str | None = "soft") -> Html:
    """Text that the description says too; ``anchor``: which part of it is at x."""
    return tag("text", text, x=x, y=y, text_anchor=anchor, class_=kind, aria_hidden="true")
