"""Scanned handwritten digits that come with scikit-learn: real images without a download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998: 1,797
images of 8×8 with 17 grey levels (the copy of `sklearn.datasets.load_digits`). It names no split,
so this file fixes one: 20% of each class are the test set, 10% of the rest the hold-out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.installing import install_command
from training.data.holdout import held_out
from training.data.image_set import ImageSet, image_set

SOURCE_PX = 8
DEFAULT_PX = 32
CLASSES = tuple(str(digit) for digit in range(10))
TEST_SHARE = 0.2
_GREY_LEVELS = 16


def read_digits(split: str, *, size_px: int = DEFAULT_PX) -> ImageSet:
    """One split, "train" (without the hold-out), "holdout" or "test", of the 1,797 digits: uint8
    N×3×size×size, the three channels equal.  ``size_px``: a multiple of 8.

    Raises:
        InputError: `size_px` is not a multiple of 8, or scikit-learn is not installed.
    """
    if size_px < SOURCE_PX or size_px % SOURCE_PX:
        raise InputError(
            f"the digits have {SOURCE_PX}×{SOURCE_PX} px; expected an image size that is a "
            f"multiple of {SOURCE_PX}, got {size_px}"
        )
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            "the digits come with scikit-learn, which is not installed; install it: "
            f"{install_command('train')}"
        ) from error
    bunch = load_digits()
    grey = np.asarray(bunch.images).astype(np.int64)
    labels = np.asarray(bunch.target).astype(np.int64)
    keys = [image.astype(np.uint8).tobytes() for image in grey]
    test = held_out(labels, keys, share=TEST_SHARE, purpose="qadtr digits test 1")
    chosen = test
    if split != "test":
        rest = np.flatnonzero(~test)
        out = held_out(
            labels[rest],
            [keys[i] for i in rest],
            purpose="qadtr digits holdout 1",
        )
        chosen = np.zeros(len(labels), np.bool_)
        chosen[rest[out if split == "holdout" else ~out]] = True
    images = _enlarged(grey[chosen], size_px)
    rgb = np.repeat(images[:, None], 3, axis=1)
    return image_set(rgb, labels[chosen], CLASSES, name="digits", split=split)


def _enlarged(grey: NDArray[np.int64], size_px: int) -> NDArray[np.uint8]:
    """Bilinear enlargement in integers: the same bytes on every machine and version.

    grey: int64 N×8×8, 0…16. Returns uint8 N×size×size, 0…255.
    """
    weights, unit = _bilinear_weights(size_px // SOURCE_PX)
    sums = weights @ grey @ weights.T
    full = _GREY_LEVELS * unit * unit
    return ((sums * 255 + full // 2) // full).astype(np.uint8)


def _bilinear_weights(factor: int) -> tuple[NDArray[np.int64], int]:
    """Integer weights (8·factor)×8 whose rows sum to the returned unit, 2·factor.

    Output pixel i lies at (2i + 1) / (2·factor) − 1/2 in input pixels; edges are repeated.
    """
    unit = 2 * factor
    weights = np.zeros((SOURCE_PX * factor, SOURCE_PX), np.int64)
    for i in range(SOURCE_PX * factor):
        left, part = divmod(2 * i + 1 - factor, unit)
        weights[i, max(left, 0)] += unit - part
        weights[i, min(left + 1, SOURCE_PX - 1)] += part
    return weights, unit
