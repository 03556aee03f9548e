"""What a training shows and writes of its course: progress, log.jsonl, TensorBoard, log lines."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from deploy.core.files import write_atomic
from training.progress import Progress

LOG = "log.jsonl"

_log = logging.getLogger(__name__)


class RunLog:
    """The course of one training of ``steps``, ``done`` of which were taken before.

    ``title`` is the bar's; only the ``first`` process writes, the others are silent; ``progress``
    shows a bar, or log lines between the epochs where there is no terminal.
    """

    def __init__(
        self, folder: Path, title: str, *, done: int, steps: int, first: bool, progress: bool
    ) -> None:
        self._folder, self._steps = folder, steps
        self._loss = self._accuracy = 0.0
        self._counted = self._images = 0
        self._started = time.monotonic()
        self._bar = Progress(title, steps, done=done, shown=progress and first, unit="step")
        self._note = ""
        tensorboard = str(folder / "tensorboard")
        self._writer = SummaryWriter(tensorboard, purge_step=done) if first else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def step(self, loss: float, accuracy: float, images: int) -> None:
        """One more step was taken, of so many images."""
        self._loss += loss
        self._accuracy += accuracy
        self._counted += 1
        self._images += images
        self._bar.advance(note=self._note)

    def epoch(self, history: list[dict[str, Any]], step: int, epoch: float) -> None:
        """Add a row to ``history``, the means of the steps since the last one, and write it."""
        now = time.monotonic()
        row = {
            "step": step,
            "epoch": round(epoch, 3),
            "loss": self._loss / self._counted,
            "accuracy": self._accuracy / self._counted,
            "images_per_s": self._images / max(1e-9, now - self._started),
        }
        history.append(row)
        self._loss = self._accuracy = 0.0
        self._counted = self._images = 0
        self._started = now
        if self._writer is None:
            return
        data = "".join(json.dumps(r) + "\n" for r in history)
        write_atomic(self._folder / LOG, data.encode())
        for name in ("loss", "accuracy", "images_per_s"):
            self._writer.add_scalar(name, row[name], row["step"])
        accuracy = 100.0 * row["accuracy"]
        self._note = f"loss {row['loss']:.3f}, accuracy {accuracy:.1f}%"
        _log.info(
            "step %d of %d: loss %.4f, training accuracy %.2f%%, %.0f images/s",
            row["step"],
            self._steps,
            row["loss"],
            accuracy,
            row["images_per_s"],
        )
