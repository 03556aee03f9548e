r"""A table for a paper: LaTeX with booktabs' rules, to be read by ``\input``."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.core.table import Cell, Table
from deploy.core.text import one_line

_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"\textdagger{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
    "∞": r"$\infty$",
}


def latex_table(table: Table) -> str:
    r"""Return a ``tabular`` in a ``table``; needs ``\usepackage{booktabs}``.

    Rows that a group shares a first cell with have it once, above them; notes are below the rules.
    """
    columns = list(table.columns)
    skipped = int(table.grouped)
    aligned = [table.align[min(i, len(table.align) - 1)] for i in range(len(columns))][skipped:]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        *([rf"\caption{{{_escaped(table.title)}}}"] if table.title else []),
        r"\centering",
        rf"\begin{{tabular}}{{{''.join(aligned)}}}",
        r"\toprule",
        _row(columns[skipped:]),
        r"\midrule",
    ]
    before = None
    for row in table.rows:
        first = _text(row[0])
        if table.grouped and first != before:
            if before is not None:
                lines.append(r"\addlinespace")
            lines.append(rf"\multicolumn{{{len(aligned)}}}{{l}}{{{_escaped(first)}}} \\")
        before = first
        lines.append(_row(row[skipped:]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {_escaped(note)}" for note in table.notes if note]
    return "\n".join([*lines, r"\end{table}", ""])


def _row(cells: Sequence[Cell | str]) -> str:
    return " & ".join(_escaped(_text(cell)) for cell in cells) + r" \\"


def _text(cell: Cell | str) -> str:
    return cell.text if isinstance(cell, Cell) else cell


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(sign, sign) for sign in one_line(text))
