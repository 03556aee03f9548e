"""k of n with its interval: the common form in records, reports and tables."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from .statistics import wilson


class Share(TypedDict):
    """k of n, as a fraction in 0…1 with its 95% Wilson interval."""

    n: int
    k: int
    value: float
    low: float
    high: float


def share(k: int, n: int) -> Share:
    """Return k of n with its interval.

    Raises:
        NothingToEvaluate: n is 0.
        InputError: k is outside 0…n.

    Example:
        >>> share(3, 4)["value"]
        0.75
    """
    interval = wilson(k, n)
    return Share(n=n, k=k, value=k / n, low=interval.low, high=interval.high)


def share_of(flags: NDArray[np.bool_]) -> Share:
    """Return the share of flags (bool, N) that are set; errors as :func:`share`."""
    return share(int(flags.sum()), len(flags))


def share_in_words(found: Share | None, *, decimals: int = 1, mark: str = "") -> str:
    """Return text such as ``75.0%† [30.1%, 95.4%] of 4``; "none" where nothing counted."""
    if found is None:
        return "none"
    value, low, high = (f"{found[key]:.{decimals}%}" for key in ("value", "low", "high"))
    return f"{value}{mark} [{low}, {high}] of {found['n']}"
