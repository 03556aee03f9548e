"""The protocol that every engine keeps, and the one place where engines are opened by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .device.errors import EngineUnavailable, UsageError
from .device.onnxruntime_engine import OnnxRuntimeEngine


@runtime_checkable
class Engine(Protocol):
    """One model in one engine, open until the context ends.

    Attributes:
        name: such as "onnxruntime-cpu".
        input_shape: (3, H, W) of the images.
        batch_size: N where the model fixes it, else None.
        classes: number of logits per image.
        threads: threads that it was given.
    """

    name: str
    input_shape: tuple[int, int, int]
    batch_size: int | None
    classes: int
    threads: int

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 logits N×C of uint8 images N×3×H×W."""
        ...

    def predict(self, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.int64]:
        """Return the class, int64 N, of each image."""
        ...


ENGINES: Mapping[str, Callable[..., Engine]] = {"onnxruntime": OnnxRuntimeEngine}
"""The engines whose code is here, by the name that commands take."""


def open_engine(name: str, model: Path, **settings: Any) -> Engine:
    """Open ``model`` in the engine ``name``; use it in a ``with``.

    Args:
        name: one of ``ENGINES``.
        model: the file for that engine.
        settings: the engine's own, such as ``threads``.

    Raises:
        EngineUnavailable: no engine of that name here, or its package is not installed.
        UsageError: a setting that the engine does not have.
        InputError: the file is missing, damaged or not for this engine.
    """
    if name not in ENGINES:
        raise EngineUnavailable(
            f"there is no engine {name!r} here; available: {', '.join(sorted(ENGINES))}"
        )
    engine = ENGINES[name]
    parameters = inspect.signature(engine).parameters.values()
    known = [item.name for item in parameters if item.kind is item.KEYWORD_ONLY]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise UsageError(
            f"the engine {name!r} has no setting {', '.join(unknown)}; it has {', '.join(known)}"
        )
    return engine(model, **settings)
