"""Ratios of two sides' times, round by round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios within each round; both lists in the order of rounds."""
    ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    quarter = len(ratios) // 4
    return {
        "median": statistics.median(ratios),
        "lower_quartile": ratios[quarter],
        "upper_quartile": ratios[-1 - quarter],
    }
