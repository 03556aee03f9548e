"""The engine's integer arithmetic, reimplemented in numpy.

Every function here is exact. Two facts allow fast floating point matrix products. Integers below
2²⁴ (2⁵³) and all their sums below that bound are exact in float32 (float64), in any order of
summation. Each operator has one inexact step, the multiplication by a scale; it is done once, in
float32, in the engine's own order of operations:

=========================  ========================================================================
QLinearConv                ``clip(rint(f32(acc) · m) + zy)``, ``m = (sx · sw) / sy``, ``acc`` with
                           the int32 bias
QGemm to float             ``f32(acc) · (sx · sw)``, ``acc`` with the int32 bias
QGemm to codes             as QLinearConv
QLinearGlobalAveragePool   ``clip(rint(f32(acc) · (sx / (sy · n))) + zy)``
QLinearAdd                 ``clip(rint((sa/sc)(a - za) + (sb/sc)(b - zb)) + zc)``, only if the
                           result is far from every rounding tie, so that the engine's order and
                           precision do not matter
=========================  ========================================================================

``rint`` rounds half to even; ``f32`` rounds an integer to float32; each product and quotient of
scales is rounded to float32. Other orders (``sx · (sw / sy)``, ``(sx / sy) · sw``, or float64)
differ from ONNX Runtime's CPU kernels in about one value in a million.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from export.reference.errors import NotReproducible, UnsupportedGraph
from export.reference.limits import require_room, require_work

Codes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Accumulator = NDArray[Any]

FLOAT32_EXACT = 2**24
INT32_LIMIT = 2**31


def round_half_even(values: Floats) -> Floats:
    """Round to the nearest integer, ties to even, in place."""
    return np.rint(values, out=values)


def requantize(accumulator: Accumulator, multiplier: Floats | np.float32, zero_point: int) -> Codes:
    """Return ``clip(rint(float32(accumulator) · multiplier) + zero_point)`` as uint8 codes.

    Args:
        accumulator: exact integers in a floating point array; it is overwritten.
        multiplier: float32, broadcast against the accumulator.
        zero_point: of the output, 0…255.
    """
    scaled = accumulator.astype(np.float32, copy=False)
    scaled *= multiplier
    rounded = round_half_even(scaled)
    rounded += np.float32(zero_point)
    np.clip(rounded, 0, 255, out=rounded)
    return rounded.astype(np.uint8)


def accumulator_type(bound: int, what: str) -> type[Any]:
    """Return the floating point type that holds every integer up to ``bound`` exactly.

    Raises:
        UnsupportedGraph: the engine's int32 accumulator could overflow.
    """
    if bound >= INT32_LIMIT:
        raise UnsupportedGraph(
            f"{what}: the accumulator can reach {bound:,}, beyond the engine's 32-bit integers "
            f"({INT32_LIMIT - 1:,}): the weights or the bias are damaged"
        )
    return np.float32 if bound < FLOAT32_EXACT else np.float64


@dataclass(frozen=True, kw_only=True)
class _Weighted:
    """A sum of products over integer weights, and the floating point type that holds it exactly.

    Attributes:
        what: the layer's name, for errors.
        weight: integers, weight zero point already subtracted.
        bias: int64 [O], at scale ``sx · sw``.
        x_zero_point: of the input.
    """

    what: str
    weight: NDArray[np.int32]
    bias: NDArray[np.int64]
    x_zero_point: int
    summed_axes: ClassVar[tuple[int, ...]]

    @cached_property
    def _dtype(self) -> type[Any]:
        largest_code = max(self.x_zero_point, 255 - self.x_zero_point)
        per_output = np.abs(self.weight.astype(np.int64)).sum(axis=self.summed_axes)
        bound = int((per_output * largest_code + np.abs(self.bias)).max())
        return accumulator_type(bound, self.what)

    def __post_init__(self) -> None:
        _ = self._dtype  # refuses a possible overflow before the first image


@dataclass(frozen=True, kw_only=True)
class Convolution(_Weighted):
    """Two-dimensional ``QLinearConv`` of uint8 N×C×H×W, padded with the input's zero point.

    Attributes:
        weight: O×(C/groups)×kh×kw.
        multiplier: float32 [O], ``(sx · sw) / sy``.
        y_zero_point: of the output.
        strides: (down, right).
        dilations: (down, right).
        pads: (top, left, bottom, right).
        groups: C for a depthwise convolution.
    """

    multiplier: Floats
    y_zero_point: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    groups: int
    summed_axes = (1, 2, 3)

    def __call__(self, x: Codes) -> Codes:
        """Return the output codes, uint8 N×O×H'×W'."""
        return requantize(self._sums(x), self.multiplier[:, None, None], self.y_zero_point)

    def sums(self, x: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the sums of products before requantization, int64 N×O×H'×W'."""
        return self._sums(x).astype(np.int64)

    def _sums(self, x: NDArray[np.integer]) -> Accumulator:
        accumulator = self._accumulate(self._padded(x))
        accumulator += self.bias.astype(self._dtype)[:, None, None]
        return accumulator

    def _padded(self, x: NDArray[np.integer]) -> Accumulator:
        if x.ndim != 4 or x.shape[1] != self.weight.shape[1] * self.groups:
            raise UnsupportedGraph(
                f"{self.what}: expected an input of "
                f"N×{self.weight.shape[1] * self.groups}×H×W, got {x.shape}"
            )
        top, left, bottom, right = self.pads
        n, c, h, w = x.shape
        shape = (n, c, h + top + bottom, w + left + right)
        require_room(self.what, *shape)
        padded: Accumulator = np.zeros(shape, self._dtype)
        inside = padded[:, :, top : top + h, left : left + w]
        np.subtract(x, self._dtype(self.x_zero_point), out=inside, dtype=self._dtype)
        return padded

    def _accumulate(self, padded: Accumulator) -> Accumulator:
        n, c, h, w = padded.shape
        o, _, kh, kw = self.weight.shape
        (sh, sw), (dh, dw) = self.strides, self.dilations
        out_h = (h - (kh - 1) * dh - 1) // sh + 1
        out_w = (w - (kw - 1) * dw - 1) // sw + 1
        if min(out_h, out_w) < 1:
            raise UnsupportedGraph(
                f"{self.what}: a padded input of {h}×{w} is smaller than the {kh}×{kw} kernel"
            )
        require_room(self.what, n, o, out_h, out_w)
        require_work(self.what, n * out_h * out_w * self.weight.size)
        span_h, span_w = (out_h - 1) * sh + 1, (out_w - 1) * sw + 1
        if self.groups == c == o:
            total: Accumulator = np.zeros((n, c, out_h, out_w), self._dtype)
            taps = self.weight[:, 0].astype(self._dtype)
            for i in range(kh):
                for j in range(kw):
                    window = padded[
                        :, :, i * dh : i * dh + span_h : sh, j * dw : j * dw + span_w : sw
                    ]
                    total += taps[:, i, j][:, None, None] * window
            return total
        # One matrix product per kernel row. Unrolling only the columns copies the input kw times
        # instead of kh·kw times. With stride 1, a kernel row is a plain slice.
        g, cg = self.groups, c // self.groups
        rows = self.weight.reshape(g, o // g, cg, kh, kw).transpose(3, 0, 1, 4, 2)
        matrices = rows.reshape(kh, g, o // g, kw * cg).astype(self._dtype)
        grouped = padded.reshape(n, g, cg, h, w)
        require_room(self.what, n, c, kw, h, out_w)
        columns: Accumulator = np.empty((n, g, kw, cg, h, out_w), self._dtype)
        for j in range(kw):
            columns[:, :, j] = grouped[..., j * dw : j * dw + span_w : sw]
        columns = columns.reshape(n, g, kw * cg, h * out_w)
        total = np.zeros((n, g, o // g, out_h * out_w), self._dtype)
        for i in range(kh):
            if sh == 1:
                taken = columns[..., i * dh * out_w : (i * dh + out_h) * out_w]
            else:
                lines = columns.reshape(n, g, kw * cg, h, out_w)
                taken = np.ascontiguousarray(lines[..., i * dh : i * dh + span_h : sh, :])
                taken = taken.reshape(n, g, kw * cg, out_h * out_w)
            total += np.matmul(matrices[i], taken)
        return total.reshape(n, o, out_h, out_w)


@dataclass(frozen=True, kw_only=True)
class Dense(_Weighted):
    """``QGemm``: uint8 N×K to float32 N×O, or to codes.

    Attributes:
        weight: K×O.
        scale: float32 [O], ``sx · sw``; for codes ``(sx · sw) / sy``.
        y_zero_point: of the output codes; None for float32 output.
    """

    scale: Floats
    y_zero_point: int | None = None
    summed_axes = (0,)

    def __call__(self, x: Codes) -> Floats | Codes:
        """Return float32 N×O, or uint8 codes."""
        if x.ndim != 2 or x.shape[1] != self.weight.shape[0]:
            raise UnsupportedGraph(
                f"{self.what}: expected an input of N×{self.weight.shape[0]}, got {x.shape}"
            )
        centred = x.astype(self._dtype) - self._dtype(self.x_zero_point)
        accumulator = centred @ self.weight.astype(self._dtype) + self.bias.astype(self._dtype)
        if self.y_zero_point is not None:
            return requantize(accumulator, self.scale, self.y_zero_point)
        scaled: Floats = accumulator.astype(np.float32) * self.scale
        return scaled


def _near_a_tie(
    value: NDArray[np.float64], tolerance: float | NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether each value is too near k + ½ for its code to be certain. Outside 0 … 255 both
    neighbours are clamped to one code."""
    margin = np.abs(value - np.floor(value) - 0.5)
    return (margin <= tolerance) & (value > 0) & (value < 255)


def add_table(
    *,
    what: str,
    scales: tuple[np.float32, np.float32, np.float32],
    zero_points: tuple[int, int, int],
    a_codes: NDArray[np.integer],
    b_codes: NDArray[np.integer],
) -> Codes:
    """Return ``QLinearAdd``'s result for every pair of codes, uint8 [len(a_codes), len(b_codes)].

    The exact value of a pair is ``v = zc + (sa/sc)(a - za) + (sb/sc)(b - zb)``. Engines compute it
    in float32 in several orders, or (on Arm) in fixed point with at least 21 bits for the larger
    ratio. ``M = 255·(1 + sa/sc + sb/sc)`` bounds every intermediate. Eight float32 roundings cost
    at most ``M·2⁻²¹``, and the fixed point at most as much. So all of them round ``v`` to the same
    code if it is further than ``M·2⁻²⁰`` from the nearest tie ``k + ½``. Ties below 0 and above 255
    do not matter: both neighbours are clamped to one code.

    Args:
        what: the layer's name, for errors.
        scales: (sa, sb, sc).
        zero_points: (za, zb, zc).
        a_codes: codes of the first input to tabulate, usually 0…255.
        b_codes: codes of the second input, 0…255 or its one constant.

    Raises:
        NotReproducible: a pair is so near a tie that the engine's rounding would decide.
    """
    sa, sb, sc = (float(scale) for scale in scales)
    za, zb, zc = zero_points
    ratio_a, ratio_b = sa / sc, sb / sc
    a_part = ratio_a * (a_codes.astype(np.float64) - za)
    b_part = ratio_b * (b_codes.astype(np.float64) - zb)
    value = zc + a_part[:, None] + b_part[None, :]
    tolerance = 255 * (1 + ratio_a + ratio_b) * 2.0**-20
    undecided = _near_a_tie(value, tolerance)
    if undecided.any():
        i, j = (int(index[0]) for index in np.nonzero(undecided))
        raise NotReproducible(
            f"{what}: QLinearAdd with scales {sa:.9g}, {sb:.9g} → {sc:.9g} gives "
            f"{value[i, j]:.6f} for codes {int(a_codes[i])} and {int(b_codes[j])}, within "
            f"{tolerance:.1e} of a rounding tie ({int(undecided.sum())} of {undecided.size} "
            "pairs are): engines differ there; use one scale for both inputs and the output, or "
            "an odd integer ratio of scales for a requantization"
        )
    table: Codes = np.clip(np.rint(value), 0, 255).astype(np.uint8)
    return table


def mul_table(
    *,
    what: str,
    scales: tuple[np.float32, np.float32, np.float32],
    zero_points: tuple[int, int, int],
) -> Codes:
    """Return ``QLinearMul``'s result for every pair of codes, uint8 [256, 256].

    The exact value is ``v = zc + (sa·sb/sc)(a - za)(b - zb)``. Engines compute it in float32 in
    several orders, with at most four roundings. All of them round it to the same code if it is
    further than ``max(1, |v|)·2⁻²⁰`` from every tie. Outside 0 … 255 both neighbours are one code.

    Raises:
        NotReproducible: a pair is too near a tie.
    """
    sa, sb, sc = (float(scale) for scale in scales)
    za, zb, zc = zero_points
    codes = np.arange(256, dtype=np.float64)
    value = zc + (sa * sb / sc) * np.multiply.outer(codes - za, codes - zb)
    undecided = _near_a_tie(value, np.maximum(1.0, np.abs(value)) * 2.0**-20)
    if undecided.any():
        a, b = (int(index[0]) for index in np.nonzero(undecided))
        raise NotReproducible(
            f"{what}: QLinearMul with scales {sa:.9g} · {sb:.9g} → {sc:.9g} gives "
            f"{value[a, b]:.6f} for codes {a} and {b}, a rounding tie: engines differ there; use "
            "a gate of scale 1/255 on the scale of the gated tensor"
        )
    table: Codes = np.clip(np.rint(value), 0, 255).astype(np.uint8)
    return table


def global_average_pool(
    x: Codes,
    positions: tuple[int, int],
    *,
    scales: tuple[np.float32, np.float32],
    zero_points: tuple[int, int],
) -> Codes:
    """Average uint8 codes over the axes ``positions`` (length 1 after it); ``scales``: (sx, sy)."""
    count = x.shape[positions[0]] * x.shape[positions[1]]
    total = x.sum(axis=positions, keepdims=True, dtype=np.int64) - zero_points[0] * count
    multiplier = np.float32(scales[0] / np.float32(scales[1] * np.float32(count)))
    return requantize(total.astype(np.float32), multiplier, zero_points[1])


def max_pool(
    x: Codes,
    *,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> Codes:
    """Return the largest code of each window, uint8; ``pads`` (top, left, bottom, right) are 0.

    Raises:
        UnsupportedGraph: the padded input is smaller than the kernel.
    """
    return largest_of(windows(x, kernel, strides, pads, 0))


def largest_of(taken: NDArray[Any]) -> NDArray[Any]:
    """Return the largest value of each of :func:`windows`, N×C×H'×W'."""
    places = np.ndindex(taken.shape[4:])
    # Position by position over all windows: eight times as fast as max over the last axes.
    return reduce(np.maximum, (taken[..., i, j] for i, j in places))


def padded(x: NDArray[Any], widths: Sequence[tuple[int, int]], fill: float) -> NDArray[Any]:
    """``x`` with ``fill`` before and after each dimension.

    Raises:
        UnsupportedGraph: the result is too large.
    """
    sizes = (size + sum(width) for size, width in zip(x.shape, widths, strict=True))
    require_room("a padded input", *sizes)
    return np.pad(x, widths, constant_values=fill)


def windows(
    x: NDArray[Any],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    fill: float,
    dilations: Sequence[int] = (1, 1),
) -> NDArray[Any]:
    """A view of all windows of N×C×H×W, N×C×H'×W'×kh×kw; ``pads``: (top, left, bottom, right).

    Raises:
        UnsupportedGraph: the padded input is smaller than the kernel.
        TooLarge: reading all of them would take too long.
    """
    top, left, bottom, right = pads
    wide = padded(x, ((0, 0), (0, 0), (top, bottom), (left, right)), fill)
    reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))
    if wide.shape[2] < reach[0] or wide.shape[3] < reach[1]:
        raise UnsupportedGraph(f"a padded input of {wide.shape} is smaller than {reach}")
    every: NDArray[Any] = sliding_window_view(wide, reach, axis=(2, 3))
    taken = every[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    # Reading a number takes as long as 32 products, a kernel position as long as 1,000 numbers.
    require_work(f"windows of {reach}", 32 * max(taken.size, 1000 * math.prod(kernel)))
    return taken
