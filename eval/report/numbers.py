"""How the report writes numbers: one way for the page and the terminal."""

from __future__ import annotations

from typing import TypedDict

from eval.measure.evaluation_record import LatencyFacts

MISSING = "–"
"""What stands where a value was not measured; never 0."""


class Bounds(TypedDict):
    """What a share, and a mean of shares, both have: the bounds of their interval."""

    low: float
    high: float


def percent(value: float) -> str:
    """A fraction 0…1 as per cent with one decimal: "46.2%"."""
    return f"{100 * value:.1f}%"


def interval(share: Bounds) -> str:
    """The 95% interval in per cent: "43.1–49.3"."""
    return f"{100 * share['low']:.1f}–{100 * share['high']:.1f}"


def points(value: float) -> str:
    """A difference in percentage points with its sign: "−1.2", "+0.0"."""
    # A proper minus sign lines up with the plus.
    return f"{value:+.1f}".replace("-", "−")


def size(size_bytes: int | None) -> str:
    """A file size in kB (1,000 bytes): "29.1 kB"."""
    if size_bytes is None:
        return MISSING
    return f"{size_bytes / 1000:,.1f} kB"


def size_ratio(ratio: float | None) -> str:
    """How many times smaller than the float file: "1/10.4", or nothing."""
    return "" if ratio is None else f"1/{ratio:.1f}"


def latency(facts: LatencyFacts | None) -> str:
    """Median milliseconds a batch: "0.52 ms"."""
    return MISSING if facts is None else f"{facts['p50_ms']:.2f} ms"
