"""Compute a ``.tflite`` file in numpy, in each arithmetic of LiteRT's kernels.

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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.files import read_bytes
from deploy.core.tflite_file import TfLiteOperator, TfLiteTensor, read_tflite
from export.reading import refusing_malformed
from export.reference.arithmetic import Convolution as FloatConvolution
from export.reference.arithmetic import Held, largest_of, padded, windows
from export.reference.errors import UnsupportedGraph
from export.reference.network import Batch, Exchange, Layer, Reference

XNNPACK, FIXED_POINT = "xnnpack", "fixed-point"
MICROCONTROLLER, SINGLE_ROUNDING = "microcontroller", "single-rounding"
ARITHMETICS = (XNNPACK, FIXED_POINT, MICROCONTROLLER, SINGLE_ROUNDING)

Integers = NDArray[np.int64]

_SAME = 0
_RELU = 1
_KINDS: Mapping[str, Any] = {
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
}


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


class LiteRtReference(Reference[np.uint8]):
    """The reference of a ``.tflite`` file with int8 images and int16 logits.

    Codes are returned as bytes, int8 code + 128, as in the all-integer file. A tensor of four
    dimensions is returned as N×C×H×W.

    Args:
        path: the file.
        arithmetic: one of :data:`ARITHMETICS`.
        batch_size: images computed at once.

    Raises:
        InputError: the file is missing or damaged.
        UnsupportedGraph: the file has something that the reference does not define.
    """

    def __init__(
        self, path: Path | str, *, arithmetic: str = XNNPACK, batch_size: int = 16
    ) -> None:
        super().__init__(path, batch_size=batch_size)
        if arithmetic not in ARITHMETICS:
            raise InputError(
                f"unknown arithmetic {arithmetic!r}; available: {', '.join(ARITHMETICS)}"
            )
        self.arithmetic = arithmetic
        try:
            self._file = read_tflite(read_bytes(self.path))
        except ValueError as error:
            raise InputError(f"{self.path} is not a readable .tflite file: {error}") from error
        with refusing_malformed(self.path):
            self._prepare()

    def _prepare(self) -> None:
        """Check everything in the file, once."""
        file = self._file
        if file.inner or file.outside or len(file.inputs) != 1 or len(file.outputs) != 1:
            raise UnsupportedGraph(
                "expected one plain graph with one input and one output, found "
                f"{', '.join([*file.inner, *file.outside]) or 'other ends'}"
            )
        image, logits = file.tensors[file.inputs[0]], file.tensors[file.outputs[0]]
        if image.type != "int8" or len(image.shape) != 4 or not image.scales:
            raise UnsupportedGraph(
                f"input {image.name!r} is {image.type}{list(image.shape)}: expected int8 N×H×W×C"
            )
        if logits.type != "int16" or len(logits.scales) != 1:
            raise UnsupportedGraph(f"output {logits.name!r} is {logits.type}, expected int16 codes")
        _, height, width, channels = image.shape
        self.input_shape = (channels, height, width)
        self._logits = logits
        self._steps = [self._step(node) for node in file.nodes]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The operators, in the file's order; each is named after its output tensor."""
        tensors = self._file.tensors
        return tuple(
            Layer(
                name=tensors[node.outputs[0]].name,
                operator=node.operator,
                inputs=tuple(
                    tensors[number].name for number in node.inputs if tensors[number].data is None
                ),
                output=tensors[node.outputs[0]].name,
            )
            for node in self._file.nodes
        )

    @property
    def code_tensors(self) -> tuple[str, ...]:
        """Names of the computed tensors of int8 codes, in the file's order."""
        return tuple(tensor.name for tensor in self._computed)

    @property
    def zero_points(self) -> Mapping[str, int]:
        """The byte that represents 0 in each of these tensors, by name."""
        return {tensor.name: tensor.zero_points[0] + 128 for tensor in self._computed}

    @property
    def _computed(self) -> list[TfLiteTensor]:
        made = (self._file.tensors[node.outputs[0]] for node in self._file.nodes)
        return [tensor for tensor in made if tensor.type == "int8"]

    @property
    def logit_scale(self) -> np.float32:
        """The value of one step of the int16 logits."""
        return np.float32(self._logits.scales[0])

    def _batch(self, images: NDArray[np.uint8], exchange: Exchange) -> Batch[np.uint8]:
        values: dict[int, Integers] = {
            self._file.inputs[0]: images.transpose(0, 2, 3, 1).astype(np.int64) - 128
        }
        for number, tensor in enumerate(self._file.tensors):
            if tensor.data is not None:
                values[number] = _stored(tensor)
        codes: dict[str, NDArray[np.uint8]] = {}
        held = Held()
        for node, function in zip(self._file.nodes, self._steps, strict=True):
            made = values[node.outputs[0]] = function(*(values[number] for number in node.inputs))
            tensor = self._file.tensors[node.outputs[0]]
            held.add(f"operator {tensor.name!r} ({node.operator})", made)
            if tensor.type == "int8":
                shown = made.transpose(0, 3, 1, 2) if made.ndim == 4 else made
                codes[tensor.name] = exchange(tensor.name, (shown + 128).astype(np.uint8))
                taken = codes[tensor.name].astype(np.int64) - 128
                values[node.outputs[0]] = taken.transpose(0, 2, 3, 1) if made.ndim == 4 else taken
        return values[self._file.outputs[0]].astype(np.float32) * self.logit_scale, codes

    def _step(self, node: TfLiteOperator) -> Callable[..., Integers]:
        if node.operator not in _OPERATORS or len(node.outputs) != 1 or -1 in node.inputs:
            raise UnsupportedGraph(
                f"operator {node.operator} has no LiteRT reference; supported: "
                f"{', '.join(supported_litert_operators())}"
            )
        tensors = [self._file.tensors[number] for number in node.inputs]
        output = self._file.tensors[node.outputs[0]]
        return partial(_OPERATORS[node.operator], _Step(node, tensors, output, self.arithmetic))


def supported_litert_operators() -> tuple[str, ...]:
    """Return the operators that the reference defines."""
    return tuple(sorted(_OPERATORS))


def _stored(tensor: TfLiteTensor) -> Integers:
    if tensor.type not in _KINDS:
        raise UnsupportedGraph(f"the stored tensor {tensor.name!r} is {tensor.type}")
    assert tensor.data is not None
    found = np.frombuffer(tensor.data, np.dtype(_KINDS[tensor.type]).newbyteorder("<"))
    if found.size != math.prod(tensor.shape):
        raise UnsupportedGraph(f"the stored tensor {tensor.name!r} has {found.size} values")
    return found.reshape(tensor.shape).astype(np.int64)


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
        bounds = np.iinfo(_KINDS[self.output.type])
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
