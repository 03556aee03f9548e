"""Text that fits one line and any of the forms a report has."""

from __future__ import annotations

import re

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def one_line(text: str) -> str:
    """Return text without line breaks, control characters and halves of surrogate pairs."""
    return printable(" ".join(text.split()))


def in_markdown(text: str) -> str:
    """Return one line of text that Markdown and HTML show as it is."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{one}" if one in "\\`*_[]|#~!" else one for one in plain)


def printable(text: str) -> str:
    """Return text with "?" for each character that XML cannot hold."""
    return _NOT_XML.sub("?", text)
