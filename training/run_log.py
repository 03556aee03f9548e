"""What a training shows and logs: progress, log.jsonl, TensorBoard, log lines."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from deploy.core.bit_widths import bits_label
from deploy.core.files import write_atomic
from training.course import Course
from training.progress import Progress

LOG = "log.jsonl"

_log = logging.getLogger(__name__)


class RunLog:
    """The log of one training of ``steps``, ``done`` of which were taken before.

    ``title`` is the title of the bar.  Only the ``first`` process writes; the others are silent.
    ``progress`` shows a bar, or log lines between the epochs where there is no terminal.

    Attributes:
        images_per_s: of the last epoch, or of the part of it that this process trained; None before
            the first.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        course: Course,
        *,
        done: int,
        steps: int,
        first: bool,
        progress: bool,
    ) -> None:
        self._folder, self._steps, self._course = folder, steps, course
        self.images_per_s: float | None = None
        self._images = 0
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
        """Count one more step, of that many images."""
        self._course.add(loss, accuracy)
        self._images += images
        self._bar.advance(note=self._note)

    def epoch(self, step: int, epoch: float, holdout: Callable[[], dict[str, float]]) -> None:
        """Add a row to the history, the means of the steps since the last one, and write it.

        Args:
            holdout: returns the hold-out accuracy, 0…1, by bit-width; called only where the result
                is shown or written, and not counted in the images per second.
        """
        now = time.monotonic()
        row = self._course.close_epoch(step, epoch)
        self.images_per_s = self._images / max(1e-9, now - self._started)
        self._images = 0
        if self._writer is not None:
            row["holdout_accuracy"] = holdout()
        self._started = time.monotonic()
        if self._writer is None:
            return
        data = "".join(json.dumps(r) + "\n" for r in self._course.history)
        write_atomic(self._folder / LOG, data.encode())
        speed = {"images_per_s": self.images_per_s}
        by_bits = row["holdout_accuracy"]
        kept_out = {f"holdout_accuracy/{bits}_bits": share for bits, share in by_bits.items()}
        means = {name: row[name] for name in ("loss", "accuracy")}
        for name, value in {**means, **speed, **kept_out}.items():
            self._writer.add_scalar(name, value, step)
        words = ", ".join(
            f"{bits_label(int(bits))} {100.0 * a:.1f}%" for bits, a in by_bits.items()
        )
        accuracy = 100.0 * row["accuracy"]
        self._note = f"loss {row['loss']:.3f}, hold-out {words}"
        _log.info(
            "step %d of %d: loss %.4f, training accuracy %.2f%%, %.0f images/s, hold-out accuracy "
            "by bits: %s",
            step,
            self._steps,
            row["loss"],
            accuracy,
            self.images_per_s,
            words,
        )
