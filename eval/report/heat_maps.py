"""Transfer matrices as heat maps: tables whose cells are shaded by the attack's success."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.core.attack_checks import LOWER_BOUND
from eval.report.html import Html, join, tag
from eval.report.matrices import Matrix, MatrixCell
from eval.report.numbers import MISSING, interval, percent
from eval.report.scrolled_table import scrolled_table

LEAST = 2
"""Sources and targets of a matrix that is worth a map; a single row stands in the main table."""


def heat_maps(matrices: Sequence[Matrix]) -> Html:
    """One map for each matrix with several sources and targets; nothing where there is none."""
    shown = [m for m in matrices if _transfers(m)]
    if not shown:
        return Html("")
    explained = tag(
        "p",
        "A row is the network that a patch was made on, a column one that it was tried on. Large: "
        "ASR over the images that this target gets right; below it the 95% interval, then the "
        "ASR over the common set, the images that every target of the map gets right. A frame "
        "marks a patch made on the target's own weights (white-box).",
        f" {LOWER_BOUND}" if any(c.mark for m in shown for c in m.cells.values()) else "",
        class_="soft small",
    )
    return join(explained, [_map(matrix) for matrix in shown])


def _transfers(matrix: Matrix) -> bool:
    """Whether a patch of one source was tried on several targets, and a target had several."""
    tried = [sum((s, t) in matrix.cells for t in matrix.targets) for s in matrix.sources]
    had = [sum((s, t) in matrix.cells for s in matrix.sources) for t in matrix.targets]
    return max(tried, default=0) >= LEAST and max(had, default=0) >= LEAST


def _map(matrix: Matrix) -> Html:
    head = tag(
        "tr",
        tag("th", "made on ↓ tried on →", scope="col"),
        [tag("th", target, scope="col") for target in matrix.targets],
    )
    body = [
        tag(
            "tr",
            tag("th", source, scope="row"),
            [_cell(matrix.cells.get((source, target))) for target in matrix.targets],
        )
        for source in matrix.sources
    ]
    return scrolled_table(
        head,
        body,
        about=f"Transfer matrix: {matrix.title}",
        caption=f"{matrix.title}; {matrix.images}",
        kind="heat",
    )


def _cell(cell: MatrixCell | None) -> Html:
    if cell is None:
        return tag("td", MISSING)
    common = MISSING
    if cell.common is not None:
        common = f"common {percent(cell.common['value'])}{cell.mark} of {cell.common['n']:,}"
    return tag(
        "td",
        tag("strong", percent(cell.asr["value"]), cell.mark),
        tag("small", f"{interval(cell.asr)} · n {cell.asr['n']:,}"),
        tag("small", common),
        tag("small", f"noise {percent(cell.floor['value'])}"),
        style=f"--share:{100 * cell.asr['value']:.1f}%",
        class_="own" if cell.whitebox else None,
    )
