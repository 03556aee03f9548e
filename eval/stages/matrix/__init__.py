"""The transfer matrix: patches of many sources against many targets on many engines."""

from eval.stages.matrix.plan import MatrixPlan, read_plan
from eval.stages.matrix.running import checks_of_targets, run_matrix

__all__ = ["MatrixPlan", "checks_of_targets", "read_plan", "run_matrix"]
