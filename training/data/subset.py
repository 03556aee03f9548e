"""The choice of images where not all are used, decided only by their index in the data set."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError


def chosen_indices(available: int, count: int | None) -> NDArray[np.int64]:
    """Indices of `count` of `available` images, int64, ascending; None takes all.

    It is a pure function of the two numbers. For one `available`, the smaller of two counts gives a
    subset of the larger.  The contents of the images do not matter, and a data set with one more
    image may give other indices.  Folders list their images class by class, so the first ones would
    all be of one class.

    Raises:
        InputError: `count` is under 1 or over `available`.
    """
    if count is None:
        return np.arange(available, dtype=np.int64)
    if not 1 <= count <= available:
        raise InputError(f"expected 1 to {available} images, got {count}")
    ranks = [
        hashlib.sha256(f"qadtr images {index}".encode()).digest() for index in range(available)
    ]
    order = sorted(range(available), key=ranks.__getitem__)
    return np.sort(np.array(order[:count], dtype=np.int64))
