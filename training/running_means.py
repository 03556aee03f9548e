"""What the training reports of its last steps."""

from __future__ import annotations

import time


class RunningMeans:
    """Means of the steps since the last report."""

    def __init__(self) -> None:
        self.loss = self.accuracy = 0.0
        self.steps = self.images = 0
        self.start = time.monotonic()

    def add(self, loss: float, accuracy: float, images: int) -> None:
        self.loss += loss
        self.accuracy += accuracy
        self.steps += 1
        self.images += images

    def summary(self) -> dict[str, float]:
        seconds = max(1e-9, time.monotonic() - self.start)
        return {
            "loss": self.loss / self.steps,
            "accuracy": self.accuracy / self.steps,
            "images_per_s": self.images / seconds,
        }
