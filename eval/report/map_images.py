"""Stored maps as small pictures in a table: one row each without and with the patch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from eval.measure.analyses.stored_map import map_codes
from eval.report.html import Html, tag
from eval.report.pictures import image_tag
from eval.report.scrolled_table import scrolled_table

_RAMP = ((13, 8, 40), (86, 20, 110), (166, 45, 96), (229, 92, 48), (251, 180, 60), (252, 255, 200))
"""Dark violet to pale yellow: lightness rises throughout, in grey print as well."""


def map_table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    *,
    about: str,
) -> Html:
    """Pictures in a table that scrolls by itself.

    Args:
        caption: above the table.
        columns: heading of each column.
        rows: heading of each row with its stored maps, one a column.
        about: what the maps show, for the texts of those who do not see them.

    Raises:
        InputError: a map is damaged.
    """
    head = tag("tr", tag("td"), [tag("th", column, scope="col") for column in columns])
    body = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            [
                tag("td", image_tag(coloured(one), f"{about}, {name}, {column}: {_range(one)}"))
                for column, one in zip(columns, maps, strict=True)
            ],
        )
        for name, maps in rows
    ]
    return scrolled_table(head, body, about=caption, caption=caption, frame="scroll maps")


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


def _range(stored: Mapping[str, Any]) -> str:
    return f"from {stored['low']:.3g} to {stored['high']:.3g}"
