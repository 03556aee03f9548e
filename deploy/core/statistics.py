"""Intervals and tests for shares and for pairs of shares, in pure Python.

References:
    Wilson 1927; Clopper and Pearson 1934; McNemar 1947, exact form;
    Holm 1979, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6;
    Newcombe 1998, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17, method 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, NothingToEvaluate

Side = Literal["upper", "lower", "two"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval, ends included."""

    low: float
    high: float


def _check(successes: int, trials: int, confidence: float) -> None:
    if trials == 0:
        raise NothingToEvaluate("expected at least 1 trial for a share, got 0")
    if not 0 <= successes <= trials:
        raise InputError(f"expected 0 to {trials} successes, got {successes}")
    if not 0.0 < confidence < 1.0:
        raise InputError(f"expected a confidence between 0 and 1, got {confidence}")


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's two-sided score interval of a share.

    Raises:
        NothingToEvaluate: no trials.
        InputError: successes outside 0…trials, confidence outside (0, 1).
    """
    _check(successes, trials, confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    denominator = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / denominator
    spread = share * (1 - share) / trials + z * z / (4 * trials * trials)
    half = z * math.sqrt(spread) / denominator
    # At the ends the formula is exact in theory, but has a rounding error in floats.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low, high)


def clopper_pearson(
    successes: int, trials: int, confidence: float = 0.975, side: Side = "upper"
) -> Interval:
    """Return the exact bound or interval of a share.

    Args:
        successes: 0…trials.
        trials: at least 1.
        confidence: of the bound (one side), or of the interval (both sides).
        side: "upper" gives [0, bound], "lower" [bound, 1], "two" both ends, each failing with
            half of 1 - confidence.

    Raises:
        NothingToEvaluate: no trials.
        InputError: successes outside 0…trials, confidence outside (0, 1), unknown side.
    """
    _check(successes, trials, confidence)
    if side not in ("upper", "lower", "two"):
        raise InputError(f"side {side!r} is unknown; known: upper, lower, two")
    risk = (1 - confidence) / (2 if side == "two" else 1)
    failures = trials - successes
    low, high = 0.0, 1.0
    if side != "upper" and successes > 0:
        low = _beta_quantile(risk, successes, failures + 1)
    if side != "lower" and failures > 0:
        # The mirror image of the lower bound: no cancellation in 1 - risk.
        high = 1 - _beta_quantile(risk, failures, successes + 1)
    return Interval(low, high)


def _beta_quantile(probability: float, a: int, b: int) -> float:
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle


def beta_cdf(x: float, a: int, b: int) -> float:
    """Return the regularized incomplete beta function I_x(a, b), 0 to 1, its continued fraction by
    Lentz; 0 where x ≤ 0, 1 where x ≥ 1.

    Reference: Press et al., Numerical Recipes, section 6.4.
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side only
        return 1 - beta_cdf(1 - x, b, a)
    log_front = (
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(x)
        + b * math.log1p(-x)
        - math.log(a)
    )
    tiny = 1e-300
    c = 1.0
    d = 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    fraction = d
    # About √max(a, b) terms are needed; the limit is far above that for any number of images.
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 + term * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + term / c
            c = c if abs(c) > tiny else tiny
            fraction *= d * c
        if abs(d * c - 1) < 1e-15:
            return math.exp(log_front) * fraction
    raise InputError(f"the beta distribution ({a}, {b}) did not converge: too many trials")


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return McNemar's two-sided exact p, 0…1; 1.0 where the two never differ.

    Each argument counts the images on which only that one succeeded.

    Raises:
        InputError: a negative count.
    """
    if only_first < 0 or only_second < 0:
        raise InputError(f"expected counts of 0 or more, got {only_first} and {only_second}")
    trials = only_first + only_second
    coefficient, tail = 1, 0
    for k in range(min(only_first, only_second) + 1):
        tail += coefficient
        coefficient = coefficient * (trials - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << trials))  # integers up to the one division


def holm(values: Sequence[float]) -> list[float]:
    """Return p values (0…1) corrected for their number by Holm's step-down procedure.

    Rejecting those under a level keeps the chance of any false rejection at it.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, highest = [1.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = highest
    return adjusted


def paired_difference(
    first: NDArray[np.bool_], second: NDArray[np.bool_], confidence: float = 0.95
) -> tuple[float, Interval]:
    """Return the difference of two shares over the same images, with Newcombe's interval.

    Args:
        first: bool, N.
        second: bool, N; entry i belongs to the same image as in ``first``.
        confidence: of the interval, two-sided.

    Returns:
        first minus second, and its interval within [-1, 1]; unlike Wald's, it always has a width.

    Raises:
        NothingToEvaluate: N is 0.
        InputError: not boolean vectors of one length, confidence outside (0, 1).
    """
    for array in (first, second):
        if not isinstance(array, np.ndarray) or array.dtype != np.bool_ or array.ndim != 1:
            raise InputError("expected two boolean vectors, one entry per image")
    if first.shape != second.shape:
        raise InputError(f"expected vectors of one length, got {len(first)} and {len(second)}")
    if len(first) == 0:
        raise NothingToEvaluate("expected at least one pair, got none")
    n = len(first)
    both = int((first & second).sum())
    only_first = int((first & ~second).sum())
    only_second = int((~first & second).sum())
    neither = n - both - only_first - only_second
    total_1, total_2 = both + only_first, both + only_second
    share_1, share_2 = total_1 / n, total_2 / n
    wilson_1, wilson_2 = wilson(total_1, n, confidence), wilson(total_2, n, confidence)
    cross = both * neither - only_first * only_second
    # Newcombe's continuity correction of the correlation, for positive ones only.
    corrected = max(cross - n / 2, 0.0) if cross > 0 else float(cross)
    product = total_1 * (n - total_1) * total_2 * (n - total_2)
    correlation = corrected / math.sqrt(product) if product else 0.0
    difference = (only_first - only_second) / n
    below = _add_in_quadrature(share_1 - wilson_1.low, wilson_2.high - share_2, correlation)
    above = _add_in_quadrature(wilson_1.high - share_1, share_2 - wilson_2.low, correlation)
    return difference, Interval(max(-1.0, difference - below), min(1.0, difference + above))


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A paired comparison of two shares of the same images.

    Attributes:
        n: images.
        only_old: number of successes only in the old result.
        only_new: number of successes only in the new result.
        difference: share of the new minus that of the old.
        interval: Newcombe's 95% interval of the difference.
        p: McNemar's, exact and two-sided.
        p_holm: p, to be corrected by Holm's procedure where there are several tests.
    """

    n: int
    only_old: int
    only_new: int
    difference: float
    interval: Interval
    p: float
    p_holm: float = 1.0

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**self.__dict__, "interval": [self.interval.low, self.interval.high]}


def paired(old: NDArray[np.bool_], new: NDArray[np.bool_]) -> Paired:
    """Compare two results, bool N, image by image; errors as :func:`paired_difference`."""
    difference, interval = paired_difference(new, old)
    only_old, only_new = int((old & ~new).sum()), int((new & ~old).sum())
    return Paired(
        n=len(old),
        only_old=only_old,
        only_new=only_new,
        difference=difference,
        interval=interval,
        p=mcnemar_exact(only_old, only_new),
    )


def _add_in_quadrature(first: float, second: float, correlation: float) -> float:
    square = first * first - 2 * correlation * first * second + second * second
    return math.sqrt(max(0.0, square))
