"""The operators of a ``.tflite`` file, each as a function of its codes and stored tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.tflite_file import TfLiteOperator, TfLiteTensor
from export.reference.arithmetic import Convolution as FloatConvolution
from export.reference.arithmetic import largest_of, padded, windows
from export.reference.errors import UnsupportedGraph
from export.reference.litert_arithmetic import (
    MICROCONTROLLER,
    SINGLE_ROUNDING,
    XNNPACK,
    Integers,
    fixed_product,
    quantized_multiplier,
    wide_product,
)

_SAME = 0
_RELU = 1
INTEGERS: Mapping[str, Any] = {
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
}


def prepare(
    node: TfLiteOperator, tensors: Sequence[TfLiteTensor], arithmetic: str
) -> Callable[..., Integers]:
    """Check an operator and return the function that computes it.

    Args:
        node: the operator.
        tensors: all those of its file.
        arithmetic: one of :data:`.litert_arithmetic.ARITHMETICS`.

    Raises:
        UnsupportedGraph: names the operator and what the reference defines.
    """
    if node.operator not in _OPERATORS:
        raise UnsupportedGraph(
            f"{node.operator} has no LiteRT reference; supported: "
            f"{', '.join(supported_litert_operators())}"
        )
    if len(node.outputs) != 1 or -1 in node.inputs:
        raise UnsupportedGraph(
            f"a {node.operator} has {len(node.outputs)} outputs and {node.inputs.count(-1)} "
            "omitted inputs, but the reference defines 1 and 0"
        )
    inputs = [tensors[number] for number in node.inputs]
    step = _Step(node, inputs, tensors[node.outputs[0]], arithmetic)
    return partial(_OPERATORS[node.operator], step)


def supported_litert_operators() -> tuple[str, ...]:
    """Return the operators that the reference defines."""
    return tuple(sorted(_OPERATORS))


class _Step:
    """One operator with the parameters of its tensors."""

    def __init__(
        self,
        node: TfLiteOperator,
        inputs: Sequence[TfLiteTensor],
        output: TfLiteTensor,
        arithmetic: str,
    ) -> None:
        self.node, self.inputs, self.output = node, inputs, output
        self.options, self.fixed = node.options, arithmetic != XNNPACK
        self.short = arithmetic in (MICROCONTROLLER, SINGLE_ROUNDING)
        self.product = wide_product if arithmetic == SINGLE_ROUNDING else fixed_product

    def scale(self, number: int) -> NDArray[np.float32]:
        """float32 (n,): the scales of an input."""
        scales = self.inputs[number].scales
        if not scales:
            raise UnsupportedGraph(
                f"{self.output.name!r}: {self.inputs[number].name!r} has no scale"
            )
        return np.array(scales, np.float32)

    def zero(self, number: int) -> int:
        return self.inputs[number].zero_points[0]

    @property
    def out_scale(self) -> np.float32:
        if len(self.output.scales) != 1:
            raise UnsupportedGraph(f"{self.output.name!r} has {len(self.output.scales)} scales")
        return np.float32(self.output.scales[0])

    def code(self, values: Integers) -> Integers:
        """Codes from rounded values in output steps: adds the zero point, and saturates."""
        zero = self.output.zero_points[0]
        bounds = np.iinfo(INTEGERS[self.output.type])
        activation = self.options.get("activation", 0)
        if len(self.output.scales) != 1 or activation not in (0, _RELU):
            raise UnsupportedGraph(
                f"{self.output.name!r}: fused activation {activation}, "
                f"{len(self.output.scales)} scales"
            )
        low = max(bounds.min, zero) if activation == _RELU else bounds.min
        return np.clip(values + zero, low, bounds.max)

    def rescaled(
        self, sums: Integers, floats: NDArray[np.float32], doubles: NDArray[np.float64]
    ) -> Integers:
        """Sums times multipliers along the last axis, rounded as in this arithmetic."""
        if not self.fixed:
            rounded = np.rint(sums.astype(np.float32) * floats)
            return self.code(rounded.astype(np.int64))
        pairs = np.array([quantized_multiplier(float(real)) for real in doubles], np.int64)
        return self.code(self.product(sums, pairs[:, 0], pairs[:, 1]))


def _multipliers(step: _Step, outputs: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    sx, sw, sy = step.scale(0), step.scale(1), step.out_scale
    sw = np.broadcast_to(sw, (outputs,))
    exact = sx.astype(np.float64) * sw.astype(np.float64) / np.float64(sy)
    return (sx * sw) / sy, exact


def _convolution(step: _Step, x: Integers, weight: Integers, bias: Integers) -> Integers:
    options = step.options
    depthwise = step.node.operator == "DEPTHWISE_CONV_2D"
    if depthwise:
        weight = weight.transpose(3, 1, 2, 0)
    outputs, height, width, depth = weight.shape
    dilations = (options["dilation_h"], options["dilation_w"])
    strides = (options["stride_h"], options["stride_w"])
    reach = [(size - 1) * by + 1 for size, by in zip((height, width), dilations, strict=True)]
    sums = FloatConvolution(
        what=step.output.name,
        weight=weight.transpose(0, 3, 1, 2).astype(np.int32),
        bias=bias,
        x_zero_point=0,
        multiplier=np.ones(outputs, np.float32),
        y_zero_point=0,
        strides=strides,
        dilations=dilations,
        pads=_pads(x.shape[1:3], reach, strides, options["padding"]),
        groups=x.shape[3] // depth,
    ).sums(x.transpose(0, 3, 1, 2) - step.zero(0))
    return step.rescaled(sums.transpose(0, 2, 3, 1), *_multipliers(step, outputs))


def _pads(
    sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int], padding: int
) -> tuple[int, int, int, int]:
    """The padding (top, left, bottom, right) of SAME or VALID."""
    if padding != _SAME:
        return (0, 0, 0, 0)
    before, after = [], []
    for size, wide, stride in zip(sizes, reach, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + wide - size, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return (before[0], before[1], after[0], after[1])


def _fully_connected(step: _Step, x: Integers, weight: Integers, bias: Integers) -> Integers:
    if step.inputs[0].type != "int16":
        raise UnsupportedGraph("FULLY_CONNECTED is defined for int16 inputs")
    # Products of 16 and 8 bits: float64 is exact for sums of 2^29 of them.
    sums = (x - step.zero(0)).astype(np.float64) @ weight.T.astype(np.float64)
    _, doubles = _multipliers(step, len(weight))
    pairs = np.array([quantized_multiplier(float(real)) for real in doubles], np.int64)
    total = sums.astype(np.int64) + bias
    return step.code(wide_product(total, pairs[:, 0], pairs[:, 1], short=step.short))


def _add(step: _Step, a: Integers, b: Integers) -> Integers:
    if step.output.type == "int32":
        return a + b
    sa, sb = (np.float32(step.scale(number).item()) for number in (0, 1))
    a, b = a - step.zero(0), b - step.zero(1)
    if step.fixed:
        twice = 2.0 * max(float(sa), float(sb))
        parts = [
            step.product(x << 20, *quantized_multiplier(float(scale) / twice))
            for x, scale in ((a, sa), (b, sb))
        ]
        back = twice / ((1 << 20) * float(step.out_scale))
        return step.code(step.product(parts[0] + parts[1], *quantized_multiplier(back)))
    ratios = [np.float32(scale / step.out_scale) for scale in (sa, sb)]
    shift = 20 - (math.frexp(float(max(ratios)))[1] - 1)
    first, second = (int(np.rint(math.ldexp(float(ratio), shift))) for ratio in ratios)
    total = a * first + b * second + (1 << (shift - 1))
    return step.code(total >> shift)


def _mul(step: _Step, a: Integers, b: Integers) -> Integers:
    sa, sb = step.scale(0), step.scale(1)
    doubles = sa.astype(np.float64) * sb.astype(np.float64) / np.float64(step.out_scale)
    product = (a - step.zero(0)) * (b - step.zero(1))
    return step.rescaled(product, (sa * sb) / step.out_scale, doubles)


def _mean(step: _Step, x: Integers, axes: Integers) -> Integers:
    if axes.tolist() != [1, 2]:
        raise UnsupportedGraph(f"MEAN over the axes {axes.tolist()}, not over height and width")
    count = x.shape[1] * x.shape[2]
    keep = bool(step.options["keep_dimensions"])
    sums = (x - step.zero(0)).sum(axis=(1, 2), keepdims=keep)
    ratio = step.scale(0) / step.out_scale
    if not step.fixed:
        floats = step.scale(0) / (step.out_scale * np.float32(count))
        return step.rescaled(sums, floats, ratio.astype(np.float64))
    q, exponent = quantized_multiplier(float(step.scale(0).item()) / float(step.out_scale))
    shift = min(63 - (64 - count.bit_length()), 32, 31 + exponent)
    q, exponent = (q << shift) // count, exponent - shift
    return step.code(step.product(sums, q, exponent))


def _quantize(step: _Step, x: Integers) -> Integers:
    if np.float32(step.scale(0).item()) != step.out_scale:
        raise UnsupportedGraph("QUANTIZE to another scale is not supported by the reference")
    return step.code(x - step.zero(0))


def _pad(step: _Step, x: Integers, widths: Integers, border: Integers | None = None) -> Integers:
    fill = step.zero(0) if border is None else int(border.item())
    pairs = [(int(before), int(after)) for before, after in widths.tolist()]
    return padded(x, pairs, fill)


def _max_pool(step: _Step, x: Integers) -> Integers:
    options = step.options
    kernel = (options["filter_h"], options["filter_w"])
    strides = (options["stride_h"], options["stride_w"])
    pads = _pads(x.shape[1:3], kernel, strides, options["padding"])
    low = np.iinfo(np.int8).min
    return largest_of(windows(x.transpose(0, 3, 1, 2), kernel, strides, pads, low)).transpose(
        0, 2, 3, 1
    )


def _maximum(step: _Step, a: Integers, b: Integers) -> Integers:
    return np.maximum(a, b)


def _concatenation(step: _Step, *parts: Integers) -> Integers:
    return np.concatenate(parts, axis=step.options["axis"])


def _slice(_: _Step, x: Integers, begin: Integers, size: Integers) -> Integers:
    spans = zip(begin.tolist(), size.tolist(), strict=True)
    return x[tuple(slice(b, None if s == -1 else b + s) for b, s in spans)]


def _resize(step: _Step, x: Integers, size: Integers) -> Integers:
    if step.options["align_corners"] or step.options["half_pixel_centers"]:
        raise UnsupportedGraph("RESIZE_NEAREST_NEIGHBOR with aligned corners or half pixels")
    rows, columns = (
        np.arange(wanted) * have // wanted
        for have, wanted in zip(x.shape[1:3], size.tolist(), strict=True)
    )
    return x[:, rows][:, :, columns]


def _transpose(_: _Step, x: Integers, order: Integers) -> Integers:
    return x.transpose(order.tolist())


def _reshape(_: _Step, x: Integers, shape: Integers) -> Integers:
    return np.ascontiguousarray(x).reshape(shape.tolist())


def _cast(_: _Step, x: Integers) -> Integers:
    return x


def _gather(step: _Step, table: Integers, index: Integers) -> Integers:
    if step.options["axis"] or step.options["batch_dimensions"] or table.ndim != 1:
        raise UnsupportedGraph("GATHER is defined for a table of one dimension")
    return table[index]


_OPERATORS: Mapping[str, Callable[..., Integers]] = {
    "ADD": _add,
    "CAST": _cast,
    "CONCATENATION": _concatenation,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": _gather,
    "MAX_POOL_2D": _max_pool,
    "MAXIMUM": _maximum,
    "MEAN": _mean,
    "MUL": _mul,
    "PAD": _pad,
    "PADV2": _pad,
    "QUANTIZE": _quantize,
    "RESHAPE": _reshape,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "SLICE": _slice,
    "TRANSPOSE": _transpose,
}
