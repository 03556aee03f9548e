"""The protocol that every engine keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing import Self  # from Python 3.11


@runtime_checkable
class Engine(Protocol):
    """One model in one engine, open until the context ends.

    Attributes:
        name: such as "onnxruntime-cpu".
        input_shape: (3, H, W) of the images.
        batch_size: N where the model fixes it, else None.
        classes: number of logits per image.
        threads: threads that it was given.

    An engine may also have ``version``, the version of its package, and ``note``, text that a
    reader of its results must know.
    """

    name: str
    input_shape: tuple[int, int, int]
    batch_size: int | None
    classes: int
    threads: int

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> None: ...

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 logits N×C of uint8 images N×3×H×W."""
        ...

    def predict(self, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.int64]:
        """Return the class, int64 N, of each image."""
        ...


@runtime_checkable
class Certified(Protocol):
    """An :class:`Engine` that also knows what its layers compute in."""

    def tells_every_layer(self) -> bool:
        """Whether :meth:`kinds_that_ran` accounts for all layers, or only for some kinds
        (convolutions and products, say), so that sums or pools may run in float."""
        ...

    def kinds_that_ran(self) -> Mapping[str, int]:
        """Return how many layers of each kind it runs, all of them in integers."""
        ...
