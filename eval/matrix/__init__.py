"""The transfer matrix: patches of many sources against many targets on many engines."""

from eval.matrix.plan import MatrixPlan, read_plan
from eval.matrix.running import run_matrix
from eval.matrix.table import matrix_text

__all__ = ["MatrixPlan", "matrix_text", "read_plan", "run_matrix"]
