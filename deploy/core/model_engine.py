"""The common part of the engines of one model file: checks around a run, and batching."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .engine_protocol import Engine
from .errors import InputError, UsageError
from .images import check_images

if TYPE_CHECKING:
    from typing import Self  # from Python 3.11


MOST_THREADS = 1024
"""More only takes the engine's memory and time to start them."""


def require_threads(threads: int) -> None:
    """Raise UsageError for fewer than one thread, or more than an engine should start."""
    if not 1 <= threads <= MOST_THREADS:
        raise UsageError(f"expected 1 to {MOST_THREADS} threads, got {threads}")


class ModelEngine(ABC):
    """One model file in one engine; a subclass opens it and supplies what is abstract here.

    The attributes are those of :class:`.engine_protocol.Engine`.
    """

    name: str
    input_shape: tuple[int, int, int]
    batch_size: int | None
    classes: int
    threads: int
    _model: Path

    @property
    @abstractmethod
    def _is_open(self) -> bool:
        """Whether :meth:`close` has not been called yet."""

    @abstractmethod
    def _logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits of a checked batch; InputError for a failure inside the engine."""

    @abstractmethod
    def close(self) -> None:
        """Free what the engine holds; a second call is not an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits of one batch.

        Args:
            batch: uint8, N×3×H×W; if the file fixes N, that N.

        Returns:
            float32, N×C, all finite.

        Raises:
            InputError: another type or shape, a failure inside the engine, NaN or infinity.
            NothingToEvaluate: N is 0.
            UsageError: the engine is closed.
        """
        if not self._is_open:
            raise UsageError(f"the engine for {self._model} is closed; open it again")
        check_images(batch, expected_shape=self.input_shape)
        if self.batch_size is not None and len(batch) != self.batch_size:
            raise InputError(
                f"{self._model} takes batches of {self.batch_size} images, got {len(batch)}"
            )
        logits = self._logits(batch)
        if logits.shape != (len(batch), self.classes):
            raise InputError(
                f"{self._model} gave logits of shape {logits.shape}, "
                f"expected {(len(batch), self.classes)}"
            )
        if not np.isfinite(logits).all():
            raise InputError(f"{self._model} gave logits that are NaN or infinite: it is damaged")
        return logits

    def predict(self, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.int64]:
        """Return the class of each image; between equal logits the lowest class wins.

        Args:
            images: uint8, N×3×H×W.
            batch_size: images per run, at least 1; a file with a fixed batch size is run with that.

        Returns:
            int64, N.

        Raises:
            InputError: as :meth:`run`.
            NothingToEvaluate: N is 0.
            UsageError: the engine is closed, or a batch size under 1.
        """
        if batch_size < 1:
            raise UsageError(f"expected a batch size of 1 or more, got {batch_size}")
        check_images(images, expected_shape=self.input_shape)
        classes: NDArray[np.int64] = run_all(self, images, batch_size).argmax(axis=1)
        return classes


def run_all(
    engine: Engine, images: NDArray[np.uint8], batch_size: int | None = None
) -> NDArray[np.float32]:
    """Return the logits, float32 N×C, of images uint8 N×3×H×W; fixed-size batches are filled up.

    Each call gets ``batch_size`` images, all of them where None.
    """
    step = engine.batch_size or batch_size or len(images)
    parts = []
    for start in range(0, len(images), step):
        batch = images[start : start + step]
        missing = (engine.batch_size or len(batch)) - len(batch)
        if missing:
            batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.uint8)])
        parts.append(engine.run(batch)[: step - missing])
    return np.concatenate(parts)
