"""What the reference computes at most: a damaged file exhausts neither memory nor patience."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from deploy.core.text import shape_in_words
from export.reference.errors import TooLarge

MOST_VALUES = 2**26
"""Largest size of one array of the reference, so that a damaged file cannot exhaust memory."""

MOST_HELD_BYTES = 2**30
"""Largest total size of one batch's tensors. With the memory that operators need besides, a process
of the reference stays under 6 GiB."""

MOST_PRODUCTS = 2**36
"""Largest number of products of one layer and one batch, so that a damaged file cannot run without
end. The largest layer of VGG-16 at 224 px has 2³⁵ for 16 images."""


def require_room(what: str, *shape: int) -> None:
    """Refuse an array before it is allocated.

    Raises:
        TooLarge: it would have more than :data:`MOST_VALUES` numbers.
    """
    if math.prod(shape) > MOST_VALUES:
        raise TooLarge(
            f"{what}: an array of {shape_in_words(shape)} is more than the reference computes "
            f"({MOST_VALUES:,} numbers): the file is damaged, or its images are too large"
        )


def require_work(what: str, products: int) -> None:
    """Refuse a layer before it is computed.

    Raises:
        TooLarge: it would take more than :data:`MOST_PRODUCTS`.
    """
    if products > MOST_PRODUCTS:
        raise TooLarge(
            f"{what}: {products:,} products are more than the reference computes "
            f"({MOST_PRODUCTS:,}): the file is damaged, or its images are too large"
        )


class Held:
    """The total size of the tensors of one batch."""

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, what: str, tensor: NDArray[Any]) -> None:
        """Add one tensor.

        Raises:
            TooLarge: the total is more than :data:`MOST_HELD_BYTES`.
        """
        self._bytes += tensor.nbytes
        if self._bytes > MOST_HELD_BYTES:
            raise TooLarge(
                f"{what}: the file's tensors take more than the {MOST_HELD_BYTES:,} bytes that the "
                "reference holds: the file is damaged, or its images are too large"
            )

    def drop(self, tensor: NDArray[Any]) -> None:
        """Subtract one tensor."""
        self._bytes -= tensor.nbytes
