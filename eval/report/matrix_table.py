"""The transfer matrix as text, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.errors import NothingToEvaluate
from eval.measure.checks.checks_record import AttackChecks
from eval.measure.evaluation_record import EvaluationRecord
from eval.report.matrices import Matrix, matrices_of
from eval.report.numbers import MISSING, interval, percent


def matrix_text(records: Sequence[EvaluationRecord], checks: AttackChecks) -> str:
    """Every matrix as text: a line for each source and target; a rate of a target whose attack
    checks tripped is marked.

    Raises:
        NothingToEvaluate: there is no record.
    """
    if not records:
        raise NothingToEvaluate("there is no evaluation record in the matrix's folder yet")
    matrices = matrices_of(records, checks)
    return "\n\n".join(_text(matrix) for matrix in matrices) or "one cell only"


def _text(matrix: Matrix) -> str:
    lines = [f"{matrix.title}", f"{matrix.images}; * source and target share their weights"]
    rows = [["source", "target", "ASR (95%)", "n", "common set", "noise"]]
    marked = False
    for source in matrix.sources:
        for target in matrix.targets:
            cell = matrix.cells.get((source, target))
            if cell is None:
                continue
            common, mark = cell.common, cell.mark
            marked |= bool(mark)
            rows.append(
                [
                    source,
                    target + (" *" if cell.whitebox else ""),
                    f"{percent(cell.asr['value'])}{mark} ({interval(cell.asr)})",
                    str(cell.asr["n"]),
                    MISSING
                    if common is None
                    else f"{percent(common['value'])}{mark} of {common['n']}",
                    percent(cell.floor["value"]),
                ]
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        left = [row[i].ljust(widths[i]) for i in (0, 1)]
        right = [row[i].rjust(widths[i]) for i in range(2, len(row))]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join([*lines, LOWER_BOUND] if marked else lines)
