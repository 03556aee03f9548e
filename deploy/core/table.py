"""One table, written as text for a terminal, as HTML for a page or as Markdown.

Every writer shows the same columns, rows and notes; only the HTML writer shows more of a cell than
its text. Names in a table come from files: each writer escapes the special characters of its form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .html import Child, Html, join, tag
from .text import in_markdown, one_line


@dataclass(frozen=True)
class Cell:
    """One cell, or the heading of a column; a plain string is a cell of that text.

    Attributes:
        text: shown by every writer.
        html: shown by the HTML writer in its place.
        kind: class of the HTML element.
        style: its style.
    """

    text: str
    html: Child | None = None
    kind: str | None = None
    style: str | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns, rows, and the title and notes above and below them.

    Attributes:
        columns: a heading each. If all are empty, text has no line for them.
        rows: with one cell for each column; the first cell names the row.
        align: "l" (left) or "r" (right) for each column; the last letter applies to all that
            follow.
        title: above the table.
        notes: lines below it.
        grouped: rows that follow each other with the same first cell are one group, set off from
            the next; text has the first cell once, as a line above its group.
    """

    columns: Sequence[Cell | str]
    rows: Sequence[Sequence[Cell | str]]
    align: str = "l"
    title: str = ""
    notes: Sequence[str] = ()
    grouped: bool = False

    def text(self) -> str:
        """Return lines of text, columns aligned, with a rule under the headings."""
        skipped = int(self.grouped)
        rows = [[one_line(_text(cell)) for cell in row] for row in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)][skipped:]
        indent = "  " * skipped
        lines = [
            indent
            + "  ".join(
                cell.rjust(width) if self._right(i) else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row[skipped:], widths, strict=True), skipped)
            ).rstrip()
            for row in rows
        ]
        head, *body = lines
        shown = [head, "─" * max(map(len, lines))] if head.strip() else []
        for i, line in enumerate(body):
            if self.grouped and self._first_of_group(i):
                shown.append(one_line(_text(self.rows[i][0])))
            shown.append(line)
        above = [one_line(self.title), ""] if self.title else []
        below = ["", *map(one_line, self.notes)] if self.notes else []
        return "\n".join([*above, *shown, *below])

    def markdown(self) -> str:
        """Return a Markdown table, the title in bold above it, the notes as paragraphs below."""
        rule = ["---:" if self._right(i) else "---" for i in range(len(self.columns))]
        head, *body = (
            [in_markdown(_text(cell)) for cell in row] for row in (self.columns, *self.rows)
        )
        lines = "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))
        above = [f"**{in_markdown(self.title)}**"] if self.title else []
        return "\n\n".join([*above, lines, *map(in_markdown, self.notes)])

    def html(
        self, *, about: str | None = None, kind: str | None = None, frame: str = "scroll"
    ) -> Html:
        """Return the table in a frame that scrolls on its own, also by keyboard, and the notes.

        Args:
            about: name of the frame, for screen readers; by default the title.
            kind: class of the table.
            frame: classes of the frame; with "" the table has none.
        """
        head = [
            _element("th", cell, self._class(i), "col") if _text(cell) else tag("td")
            for i, cell in enumerate(self.columns)
        ]
        body = [
            tag(
                "tr",
                [
                    _element("td" if j else "th", cell, self._class(j), None if j else "row")
                    for j, cell in enumerate(row)
                ],
                class_="first" if self.grouped and self._first_of_group(i) else None,
            )
            for i, row in enumerate(self.rows)
        ]
        table = tag(
            "table",
            tag("caption", self.title) if self.title else "",
            tag("thead", tag("tr", head)),
            tag("tbody", body),
            class_=kind,
        )
        named = self.title if about is None else about
        framed = tag("div", table, class_=frame, role="region", aria_label=named, tabindex="0")
        notes = [tag("p", note, class_="soft small") for note in self.notes]
        return join(framed if frame else table, notes)

    def _right(self, column: int) -> bool:
        return self.align[min(column, len(self.align) - 1)] == "r"

    def _class(self, column: int) -> str | None:
        return "number" if self._right(column) else None

    def _first_of_group(self, row: int) -> bool:
        return row == 0 or _text(self.rows[row][0]) != _text(self.rows[row - 1][0])


def _text(cell: Cell | str) -> str:
    return cell.text if isinstance(cell, Cell) else cell


def _element(name: str, cell: Cell | str, kind: str | None, scope: str | None) -> Html:
    if isinstance(cell, str):
        return tag(name, cell, scope=scope, class_=kind)
    content = cell.text if cell.html is None else cell.html
    return tag(name, content, scope=scope, class_=cell.kind or kind, style=cell.style)
