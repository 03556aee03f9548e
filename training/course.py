"""The history of a training, and the sums for its next row.

Both depend on the steps alone, so a resumed training continues with them; the speed depends on the
machine and the clock, and is stored separately.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Course:
    """The history and sums of the steps so far, from which a saved training continues.

    Attributes:
        history: a row per epoch: step, epoch, and the means of loss and accuracy.
        loss, accuracy: sums over the ``steps`` since the last row.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    loss: float = 0.0
    accuracy: float = 0.0
    steps: int = 0

    def add(self, loss: float, accuracy: float) -> None:
        """Add one more step."""
        self.loss += loss
        self.accuracy += accuracy
        self.steps += 1

    def close_epoch(self, step: int, epoch: float) -> dict[str, Any]:
        """Add a row to the history, the means of the steps since the last one."""
        row = {
            "step": step,
            "epoch": round(epoch, 3),
            "loss": self.loss / self.steps,
            "accuracy": self.accuracy / self.steps,
        }
        self.history.append(row)
        self.loss = self.accuracy = 0.0
        self.steps = 0
        return row
