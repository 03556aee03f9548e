"""Types of command-line options: the numbers that each can mean; argparse refuses others.

Examples:
    >>> import argparse
    >>> parser = argparse.ArgumentParser()
    >>> _ = parser.add_argument("--images", type=count)
    >>> parser.parse_args(["--images", "100"]).images
    100
"""

from __future__ import annotations

import argparse
import math


def count(text: str) -> int:
    """A number of things: 1 or more, in 31 bits."""
    return _whole(text, 1)


def index(text: str) -> int:
    """A class, a seed, or a number that may be none: 0 or more, in 31 bits."""
    return _whole(text, 0)


def share(text: str) -> float:
    """A part of a whole, 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share of 0 to 1, got {text[:40]}")
    return value


def positive(text: str) -> float:
    """A finite number over 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number over 0, got {text[:40]}")
    return value


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not least <= value < 1 << 31:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from {least} to 2147483647, got {text[:40]}"
        )
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
