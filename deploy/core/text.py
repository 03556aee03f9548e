"""Text that fits one line and any of the forms a report has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_UNSAFE = re.compile(
    "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"  # XML cannot hold them
    "|[\x7f-\x9f]"  # control characters: a terminal acts on some
    "|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # they change the direction of text
)


def one_line(text: str) -> str:
    """Return text without line breaks, control characters and halves of surrogate pairs."""
    return printable(" ".join(text.split()))


def shortened(text: str, most: int) -> str:
    """Return text of at most about the given number of characters, with the middle of longer text
    left out: the start states the fault, the end the remedy."""
    if len(text) <= most:
        return text
    start, end = most * 2 // 3, most // 3
    return f"{text[:start]} [… {len(text) - start - end:,} characters …] {text[-end:]}"


def some(names: Sequence[str]) -> str:
    """Return the first three names, quoted, 80 characters of each, and how many more there are."""
    shown = ", ".join(repr(name[:80]) for name in dict.fromkeys(names[:3]))
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def shape_in_words(sides: Iterable[int | None]) -> str:
    """Return a shape such as "open×3×32×32"; None is an open size.

    >>> shape_in_words((None, 3, 32, 32))
    'open×3×32×32'
    """
    return "×".join("open" if side is None else str(side) for side in sides) or "scalar"


def in_markdown(text: str) -> str:
    """Return one line of text that Markdown and HTML show unchanged."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{one}" if one in "\\`*_[]|#~!" else one for one in plain)


def printable(text: str) -> str:
    """Return text with "?" for each character that XML cannot hold, or that hides other text."""
    return _UNSAFE.sub("?", text)
