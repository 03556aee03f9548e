"""Means over images with a 95% interval."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from deploy.core.errors import InputError, NothingToEvaluate
from training.validated import AtLeast1

RESAMPLES = 2000
"""Of the bootstrap; its seed is fixed, so that equal values give equal intervals."""


class Mean(TypedDict):
    """The mean over n images with its 95% percentile-bootstrap interval over the images.

    The bootstrap knows no more than these images: of few it is too narrow, and of one, or of values
    that are all equal, it has no width.
    """

    n: AtLeast1
    value: float
    low: float
    high: float


def mean_of(values: NDArray[np.floating[Any]]) -> Mean:
    """The mean of one value per image; bounded values have bounded intervals.

    Args:
        values: floats (N,), finite.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13: the percentile
        interval.

    Raises:
        NothingToEvaluate: N is 0.
        InputError: a value is NaN or infinite.
    """
    value, low, high = (grid.item() for grid in means_of(values))
    return Mean(n=len(values), value=value, low=low, high=high)


def mean_where(values: NDArray[np.floating[Any]], known: NDArray[np.bool_]) -> Mean | None:
    """The mean over the images where the value is ``known`` (bool, N); None where it never is."""
    return mean_of(values[known]) if known.any() else None


def means_of(
    values: NDArray[np.floating[Any]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean, lower and upper bound over the first axis, six significant digits.

    Args:
        values: floats N×…, finite; every place is resampled with the same images.

    Returns:
        Three float64 arrays of the shape after N.

    Raises:
        NothingToEvaluate: N is 0.
        InputError: a value is NaN or infinite.
    """
    count = len(values)
    if count == 0:
        raise NothingToEvaluate("A mean needs at least one image, got none.")
    flat = values.reshape(count, -1).astype(np.float64)
    if not np.isfinite(flat).all():
        raise InputError("A mean was asked of values that are NaN or infinite.")
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    resampled = drawn @ flat / count
    bounds = np.quantile(resampled, [0.025, 0.975], axis=0)
    mean, low, high = (
        np.vectorize(_six_digits, otypes=[np.float64])(row).reshape(values.shape[1:])
        for row in (flat.mean(axis=0), *bounds)
    )
    return mean, low, high


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")
