"""Inline SVG: drawings that can be read aloud, and the text in them that need not be."""

from __future__ import annotations

from deploy.core.html import Child, Html, tag


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
