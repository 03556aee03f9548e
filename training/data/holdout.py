"""Which images of a class are held out: decided by the image, not by the order of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError

HELD_OUT = 0.1
"""Of each class of a data set's training images."""


def held_out(
    labels: NDArray[np.int64], keys: Sequence[bytes], *, purpose: str, share: float = HELD_OUT
) -> NDArray[np.bool_]:
    """Choose a fixed, stratified share of a data set: bool N, True for the held-out images.

    In each class the images with the smallest SHA-256 of (purpose, key) are chosen, so the choice
    depends neither on the order of the images nor on a random generator of some library version.
    Images with equal keys (exact duplicates) get equal hashes, so they fall on the same side,
    except for at most one pair per class at the border.

    Args:
        labels: int64 N.
        keys: N keys, one per image: its bytes, or its path where the bytes depend on a resize.
        share: share of each class to hold out, 0 < share < 1; rounded to whole images, and at
            least one image stays on each side.
        purpose: seed of the choice: a different word gives a different choice.

    Raises:
        InputError: a class that occurs has fewer than two images, so it cannot be split.
    """
    assert 0 < share < 1
    assert len(labels) == len(keys)
    ranks = [hashlib.sha256(purpose.encode() + b"\0" + key).digest() for key in keys]
    chosen = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise InputError(
                f"class {int(label)} has {len(members)} training image, expected at least 2, "
                "because a part of each class is held out for choosing settings"
            )
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        by_hash = sorted(members.tolist(), key=ranks.__getitem__)
        chosen[by_hash[:count]] = True
    return chosen
