"""Step sizes of the uniform quantizers: which grid fits a Gaussian best.

A uniform quantizer with ``levels`` symmetric levels and step ``delta`` has, on a standard normal
variable, the mean squared error that :func:`gaussian_error` computes in closed form.  Its
minimiser is the classical table of Max (1960) and Lloyd (1982) for uniform quantizers.  Weights
of a trained layer are close to Gaussian per output channel, and a rectified activation is the
positive half of one, so the same table serves both.
"""

from __future__ import annotations

import math
from functools import cache

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def gaussian_error(levels: int, delta: float) -> float:
    """Mean squared error of quantizing N(0, 1) to ``levels`` (odd) levels ``delta`` apart.

    E[(x - q)^2] = sum over cells of the integral of (x - q)^2 phi(x); for a cell [a, b] with
    level q it is [(1 + q^2) Phi - (x - 2 q) phi] from a to b.
    """
    if levels < 3 or levels % 2 == 0:
        raise ValueError(f"levels must be odd and at least 3, got {levels}")
    top = (levels - 1) // 2

    def primitive(x: float, q: float) -> float:
        if math.isinf(x):
            return 0.0 if x < 0 else 1.0 + q * q
        cdf = 0.5 * math.erfc(-x / math.sqrt(2.0))
        pdf = math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
        return (1.0 + q * q) * cdf - (x - 2.0 * q) * pdf

    error = 0.0
    for code in range(-top, top + 1):
        low = -math.inf if code == -top else (code - 0.5) * delta
        high = math.inf if code == top else (code + 0.5) * delta
        error += primitive(high, code * delta) - primitive(low, code * delta)
    return error


@cache
def gaussian_step(levels: int) -> float:
    """The step, in standard deviations, that minimises :func:`gaussian_error` (golden section)."""
    low, high = 1e-3, 3.0
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    error_a, error_b = gaussian_error(levels, a), gaussian_error(levels, b)
    while high - low > 1e-9:
        if error_a < error_b:
            high, b, error_b = b, a, error_a
            a = high - _GOLDEN * (high - low)
            error_a = gaussian_error(levels, a)
        else:
            low, a, error_a = a, b, error_b
            b = low + _GOLDEN * (high - low)
            error_b = gaussian_error(levels, b)
    return 0.5 * (low + high)


def weight_step(bits: int) -> float:
    """Step of ``bits``-bit narrow-range weights in units of the channel's mean absolute weight.

    2^b - 1 levels; for a Gaussian, sigma = E|w| * sqrt(pi / 2).
    """
    return gaussian_step(2**bits - 1) * math.sqrt(math.pi / 2.0)


def rectified_step(bits: int) -> float:
    """Step of ``bits``-bit unsigned codes in units of the mean of a rectified Gaussian.

    Codes 0 ... 2^b - 1 are the upper half of a symmetric grid of 2^(b+1) - 1 levels; for a
    rectified Gaussian, sigma = E[max(0, x)] * sqrt(2 pi).
    """
    return gaussian_step(2 ** (bits + 1) - 1) * math.sqrt(2.0 * math.pi)


def residual_ratio(bits: int, stream_bits: int = 8) -> int:
    """How many steps of the residual stream one step of the ``bits``-bit branch spans.

    It is the odd integer nearest to 2^(s - 1) / (2^b - 1) for a stream of s bits: the branch then
    covers about half of the stream's range.  It is odd because stream codes are integers and an
    integer divided by an odd integer is never halfway between two others: every formula that any
    engine uses for the requantization, in float32 or in integers, gives the same code
    (docs/decisions/requantization.md).
    """
    ratio = 2.0 ** (stream_bits - 1) / (2**bits - 1)
    return max(1, 2 * round((ratio - 1.0) / 2.0) + 1)
