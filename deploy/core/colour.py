"""Colour on a terminal, and nowhere else.

``NO_COLOR`` with any text turns it off (https://no-color.org), ``FORCE_COLOR`` on.
"""

from __future__ import annotations

import os
from typing import Literal, TextIO

Colour = Literal["red", "green", "yellow"]

_CODES: dict[Colour, str] = {"red": "31", "green": "32", "yellow": "33"}


def coloured(text: str, colour: Colour | None, stream: TextIO | None) -> str:
    """Return the text in bold and colour where ``stream`` shows it, else unchanged."""
    if colour is None or not shows_colour(stream):
        return text
    return f"\033[1;{_CODES[colour]}m{text}\033[0m"


def shows_colour(stream: TextIO | None) -> bool:
    """Whether colour is wanted on the stream."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    if stream is None or stream.closed or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()
