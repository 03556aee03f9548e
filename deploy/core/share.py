"""k of n with its interval: the one form that every record and table has."""

from __future__ import annotations

from typing import TypedDict

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
