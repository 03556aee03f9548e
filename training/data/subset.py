"""Which images are used where not all are: decided by their places in the data set alone."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError


def chosen_indices(available: int, count: int | None) -> NDArray[np.int64]:
    """Indices of `count` of `available` images, int64, ascending; None takes all.

    A pure function of the two numbers: of one `available`, the smaller of two counts is a subset of
    the larger; what the images show has no part in it, and a data set with one image more may give
    other ones.  Folders list their images class by class, so taking the first would take one class.

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
