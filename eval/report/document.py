"""The frame of every page: one file, no network, no script."""

from __future__ import annotations

from eval.report.html import Child, Html, tag
from eval.report.style import STYLE

# Nothing may be fetched, whatever a record says; the style sheet and the images are in the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, *body: Child) -> str:
    """A whole HTML page with the project's style; ``body`` are the children of its body."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", *body), lang="en")
