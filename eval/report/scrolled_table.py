"""The frame of every table of the page: it scrolls by itself, by keyboard too."""

from __future__ import annotations

from eval.report.html import Child, Html, tag


def scrolled_table(
    head: Html,
    body: Child,
    *,
    about: str,
    caption: str | None = None,
    kind: str | None = None,
    frame: str = "scroll",
) -> Html:
    """A table in a frame that scrolls where the page is too narrow for it.

    Args:
        head: the row of headings.
        body: the other rows.
        about: name of the frame, for those who do not see it.
        caption: above the table.
        kind: class of the table.
        frame: classes of the frame.
    """
    table = tag(
        "table",
        "" if caption is None else tag("caption", caption),
        tag("thead", head),
        tag("tbody", body),
        class_=kind,
    )
    return tag("div", table, class_=frame, role="region", aria_label=about, tabindex="0")
