"""The transfer matrix: patches of many sources against many targets on many engines."""

from eval.matrix.plan import MatrixPlan, read_plan
from eval.matrix.running import run_matrix
from eval.matrix.table import checks_of_targets, matrix_text

__all__ = ["MatrixPlan", "checks_of_targets", "matrix_text", "read_plan", "run_matrix"]
