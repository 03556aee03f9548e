"""The arithmetics of LiteRT's kernels.

===================  ==============================================================================
``xnnpack``          XNNPACK runs the operators that it supports, on x86-64 and aarch64; LiteRT's
                     built-in kernels run the rest
``fixed-point``      LiteRT's reference kernels
``microcontroller``  tflite-micro's kernels: the same except for products of int16
``single-rounding``  tflite-micro's kernels built with ``TFLITE_SINGLE_ROUNDING=1``: each
                     :func:`fixed_product` below is a :func:`wide_product`, rounded once
===================  ==============================================================================

They agree on every exact operation: sums of integer products, moves, tables.  They differ in how a
sum is requantized:

========================  =========================================================================
convolution, ``xnnpack``  ``rint(f32(acc) · m) + zp``, m = sx · sw / sy in float32
``fixed-point``           m in double as q · 2^e with q of 31 bits (:func:`quantized_multiplier`),
                          ``acc · m`` by a doubling high product and a shift, each rounded
                          (:func:`fixed_product`)
ADD, ``xnnpack``          sx / sy as multiples of 2^-s, s = 20 minus the exponent of the larger one;
                          the sum is shifted by s bits, halves round up
``fixed-point``           both summands · 2^20, times their halved ratios; their sum times the
                          output's ratio; each is a :func:`fixed_product`
MUL, ``xnnpack``          as the convolution, with m = sa · sb / sy
``fixed-point``           likewise
MEAN, ``xnnpack``         ``rint(f32(sum) · m) + zp``, m = sx / (sy · n) in float32
``fixed-point``           sum times q / n · 2^e, one :func:`fixed_product`
FULLY_CONNECTED, int16    int64 sums times q · 2^e, rounded once, halves up, in every arithmetic;
                          tflite-micro rounds q to 15 bits
========================  =========================================================================

References: ``reference_integer_ops`` and ``quantization_util`` of LiteRT; ``qs8-vadd``,
``requantization`` and ``qs8-rsum`` of XNNPACK.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

XNNPACK, FIXED_POINT = "xnnpack", "fixed-point"
MICROCONTROLLER, SINGLE_ROUNDING = "microcontroller", "single-rounding"
ARITHMETICS = (XNNPACK, FIXED_POINT, MICROCONTROLLER, SINGLE_ROUNDING)

Integers = NDArray[np.int64]


def quantized_multiplier(real: float) -> tuple[int, int]:
    """q and e with ``real`` ≈ q · 2^(e - 31) and q of 31 bits: LiteRT's QuantizeMultiplier."""
    if real == 0.0:
        return 0, 0
    fraction, exponent = math.frexp(real)
    # C's round: halves away from zero; the fraction is positive.
    q = math.floor(fraction * (1 << 31) + 0.5)
    if q == 1 << 31:
        q, exponent = q // 2, exponent + 1
    return (0, 0) if exponent < -31 else (q, exponent)


def fixed_product(x: Integers, q: NDArray[Any] | int, exponent: NDArray[Any] | int) -> Integers:
    """x · q · 2^(exponent - 31): LiteRT's MultiplyByQuantizedMultiplier with two roundings.

    The first is a doubling high product, whose division truncates (halves round up); the second is
    a right shift (halves round away from zero).
    """
    left, right = np.maximum(exponent, 0), np.maximum(np.negative(exponent), 0)
    product = (x << left) * q
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.where(nudged >= 0, nudged >> 31, -((-nudged) >> 31))
    mask = (np.int64(1) << right) - 1
    threshold = (mask >> 1) + (high < 0)
    shifted: Integers = (high >> right) + ((high & mask) > threshold)
    return shifted


def wide_product(
    x: Integers, q: NDArray[Any] | int, exponent: NDArray[Any] | int, *, short: bool = False
) -> Integers:
    """x · q · 2^(exponent - 31) with one rounding; halves round up.

    ``short``: q is rounded to 15 bits first.
    """
    shift = np.asarray(31 - exponent)
    if short:
        q, shift = np.where(q < 0x7FFF0000, (q + (1 << 15)) >> 16, 0x7FFF), shift - 16
    product: Integers = (x * q + (np.int64(1) << (shift - 1))) >> shift
    return product
