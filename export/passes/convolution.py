"""Convolution, BatchNorm and quantizer as one convolution of codes, exactly.

With input codes x (zero point z_x, scale s_x), weight codes w and scales s_w[c], BatchNorm
y = gain[c] * conv + bias[c] and output scale s_y, zero point z_y:

    gain[c] * s_x * s_w[c] * sum (x - z_x) w + bias[c]
        = s_x * s'[c] * (sum (x - z_x) (sign(gain[c]) w) + B[c])
    s'[c] = s_w[c] * |gain[c]|            (the weight scale of QLinearConv)
    B[c]  = round(bias[c] / (s_x s'[c]))  (its int32 bias)

The integer weights are the trained ones; a negative gain flips their sign, which the
symmetric narrow range allows.  A channel whose gain or whose weights are all 0 is constant: it has
weights 0 and s' = s_y / s_x, so that its int32 bias is the output code itself, rounded once.

QLinearConv computes round(acc * s_x s' / s_y) + z_y, saturated to uint8.  A uint8 Clip bounds
narrower codes, and ReLU is the saturation at z_y = 0.  ReLU6, or any Clip to a … b before the
quantizer, narrows the codes to round(a / s_y) … round(b / s_y): rounding is monotone, so the clamp
may come after it.

:mod:`export.passes.kernels` selects the kernel of the engine that runs it.

In a Q/DQ graph the weights are int8 codes followed by a DequantizeLinear with one scale s' per
output channel, and the bias is float32; for a constant channel it is the value of its code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import attributes_of, node_label
from export.passes.kernels import kernel_form
from export.passes.qonnx_graph import Quantizer
from export.passes.quantizers import dequantized_weights, quantized, value_codes
from export.passes.rule import (
    Clamp,
    Codes,
    Context,
    LoweringError,
    Refusal,
    Written,
    activation_quantizer,
    byte,
    byte_codes,
    clipped,
    int32_bias,
    named,
    quantized_weights,
    scalar,
)
from export.passes.weighted_sum import Affine, affine_before
from export.storage import stored_weights

KEPT_ATTRIBUTES = ("kernel_shape", "strides", "pads", "dilations", "group")
"""The attributes that every target's convolution has."""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """The parts of Quant(Relu|Clip?(BatchNormalization?(Conv(codes, Quant(weights), bias?)))).

    Attributes:
        x: the codes that the convolution reads.
        shape: of these codes, N×C×H×W, if the file states it.
        weights: trained integer codes O×C×kh×kw, int64.
        scale: of the weights, float32 (O,).
        weight_bits: of the weights' quantizer.
        affine: BatchNorm and bias together.
        quantizer: of the output; None if not known yet.
        clamp: the effect of a Relu or Clip before the quantizer.
        attributes: of the Conv node, :data:`KEPT_ATTRIBUTES`.
    """

    x: Codes
    shape: tuple[int, ...] | None
    weights: NDArray[np.int64]
    scale: NDArray[np.float32]
    weight_bits: int
    affine: Affine
    quantizer: Quantizer | None
    clamp: Clamp
    attributes: dict[str, Any]

    @property
    def output(self) -> Quantizer:
        """The quantizer of the output."""
        assert self.quantizer is not None, "it is not known yet"
        return self.quantizer

    @property
    def flipped(self) -> str:
        """A clause on the channels whose weights change sign; may be empty."""
        count = int((self.affine.gain < 0).sum())
        return f", {count} channels with a negative gain flipped" if count else ""


def convolution(node: onnx.NodeProto, context: Context) -> Convolution:
    """Match the convolution before the quantizer ``node``."""
    found = convolution_before(node.input[0], context)
    return replace(found, quantizer=activation_quantizer(node, context))


def convolution_before(name: str, context: Context) -> Convolution:
    """Match the convolution before the tensor ``name``; its quantizer is not known yet."""
    source = context.source
    conv, _, affine, clamp = affine_before(name, context, ("Conv",))
    if conv is None or conv.op_type != "Conv":
        raise Refusal(
            f"{named(conv)} precedes it, not a Conv with BatchNormalization, numbers, Relu or Clip",
            other=True,
        )
    x = context.codes_of(conv.input[0], "the convolution's input")
    weights, scale, bits = quantized_weights(conv.input[1], context, what="output channel")
    if weights.ndim != 4:
        raise Refusal(
            f"{node_label(conv)} is a convolution over {weights.ndim - 2} dimensions, but images "
            "have two"
        )
    attributes = attributes_of(conv)
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise Refusal("auto_pad is not supported; write the padding out")
    groups = int(attributes.get("group", 1))
    if groups < 1 or len(weights) % groups:
        raise Refusal(f"{len(weights)} outputs do not divide evenly into {groups} groups")
    if len(conv.input) > 2 and conv.input[2]:
        added = source.constant_values(conv.input[2])
        if added is None:
            raise Refusal("its bias is not a constant")
        affine = affine.after(Affine(gain=np.ones(1), bias=added.reshape(-1)))
    return Convolution(
        x=x,
        shape=source.shapes.get(conv.input[0]),
        weights=weights,
        scale=scale,
        weight_bits=bits,
        affine=affine.of(len(weights)),
        quantizer=None,
        clamp=clamp,
        attributes={key: attributes[key] for key in KEPT_ATTRIBUTES if key in attributes},
    )


def channel_map(node: onnx.NodeProto, context: Context) -> Convolution:
    """Match codes that are scaled and shifted per channel before the quantizer ``node``."""
    found = channel_map_before(node.input[0], context)
    return replace(found, quantizer=activation_quantizer(node, context))


def channel_map_before(tensor: str, context: Context) -> Convolution:
    """Match the channel map before a tensor, as a convolution of each channel with the constant 1;
    its quantizer is not known yet."""
    source = context.source
    _, name, affine, clamp = affine_before(tensor, context, ("Conv", "Gemm", "MatMul"))
    if name not in context.codes:
        raise Refusal(f"{named(source.producer(name))} precedes it, not codes", other=True)
    shape = source.shapes.get(name, ())
    if len(shape) != 4 or not shape[1]:
        raise Refusal(f"codes of the shape {list(shape)} have no channels to be mapped")
    channels = shape[1]
    return Convolution(
        x=context.codes[name],
        shape=shape,
        weights=np.ones((channels, 1, 1, 1), np.int64),
        scale=np.ones(channels, np.float32),
        weight_bits=8,
        affine=affine.of(channels),
        quantizer=None,
        clamp=clamp,
        attributes={"group": channels, "kernel_shape": [1, 1]},
    )


@dataclass(frozen=True, kw_only=True)
class FoldedConvolution:
    """The convolution with BatchNorm folded into its scales.

    Attributes:
        weights: integer codes in int8's range, signs flipped where the gain is negative.
        scale: s', one per output channel, float32.
        bias: values, float64; for a constant channel, the value of its code.
        grid: the accumulator's step in each channel, float64.
        factor: by which the weights are larger than the trained ones (:func:`finer`).
    """

    weights: NDArray[np.int64]
    scale: NDArray[np.float32]
    bias: NDArray[np.float64]
    grid: NDArray[np.float64]
    factor: int

    @property
    def note(self) -> str:
        """A clause on the factor; may be empty."""
        return "" if self.factor == 1 else f", weights times {self.factor} for the bias"


MOVED = 2.0**-9
"""Largest rounding error of a bias, in output codes, before the accumulator gets a finer step."""

_MOST = (7, 127)
"""The largest codes of INT4 and INT8."""


def finer(
    bias: NDArray[np.float64], grid: NDArray[np.float64], weights: NDArray[np.int64], error: float
) -> int:
    """The least factor of the weights with which every bias is within ``error`` of a multiple of
    the accumulator's step ``grid`` / factor; if there is none, the largest possible factor.  A
    ``grid`` of 0 fits any bias.

    A bias that was trained in float lies between two steps, and at few bits a step is a large part
    of an output code.  Weights that are k times as large, with a scale k times as small, give the
    same sums in steps k times as small.  The factors tried are those that keep the weights in INT4,
    and in INT8, so that low-bit weights stay small in the file.
    """
    steps = np.where(grid > 0.0, grid, 1.0)
    largest = int(np.abs(weights).max(initial=1))
    factors = [1, *(most // largest for most in _MOST if most // largest > 1)]
    for factor in factors:
        fine = steps / factor
        off = np.abs(bias - np.rint(bias / fine) * fine)
        if bool((np.where(grid > 0.0, off, 0.0) <= error).all()):
            return factor
    return factors[-1]


def fold(found: Convolution, output_scale: np.float32, layer: str) -> FoldedConvolution:
    """Fold gain and bias by the module's algebra, for an output quantized at this scale.

    Raises:
        LoweringError: a scale is outside float32's range, or a weight outside int8's.
    """
    gain, codes = found.affine.gain, found.weights
    input_scale = float(found.x.scale)
    constant = (gain == 0.0) | ~codes.reshape(len(codes), -1).any(axis=1)
    folded = found.scale.astype(np.float64) * np.abs(gain)
    scale = np.where(constant, float(output_scale) / input_scale, folded).astype(np.float32)
    if not bool((np.isfinite(scale) & (scale > 0)).all()):
        raise LoweringError(f"{layer}: a weight scale times BatchNorm gain leaves float32's range")
    weights = codes * np.sign(gain).astype(np.int64).reshape(-1, 1, 1, 1)
    if weights.max(initial=0) > 127:
        raise LoweringError(
            f"{layer}: a weight of -128 under a negative gain has no opposite in int8; quantize "
            "weights with narrow_range"
        )
    steps = np.where(constant, 0.0, input_scale * folded)
    factor = finer(found.affine.bias, steps, weights, float(output_scale) * MOVED)
    weights = weights * factor
    scale = np.where(constant, scale, folded / factor).astype(np.float32)
    grid = input_scale * scale.astype(np.float64)
    # A constant's code is rounded once, in float32 as in training; past ±1024 it saturates anyway.
    code = np.rint(found.affine.bias.astype(np.float32) / output_scale).clip(-1024.0, 1024.0)
    bias = np.where(constant, code * grid, found.affine.bias)
    return FoldedConvolution(weights=weights, scale=scale, bias=bias, grid=grid, factor=factor)


def write_integer_convolution(found: Convolution, layer: str, context: Context) -> Written:
    """Write QLinearConv, and Clip if needed."""
    builder, x = context.builder, found.x
    out = byte_codes(found.output, found.clamp, layer)
    folded = fold(found, out.scale, layer)
    form = kernel_form(context, x, found.shape, folded.weights, found.attributes)
    bias = int32_bias(folded.bias, folded.grid, folded.weights, layer)
    inputs = [
        form.source,
        scalar(builder, x.scale),
        byte(builder, x.zero_point),
        stored_weights(
            builder,
            form.weights,
            found.weight_bits if folded.factor == 1 else 4,
            f"{layer}.w",
            context.storage,
        ),
        builder.constant(folded.scale, f"{layer}.ws"),
        builder.constant(np.int8(form.zero_point), f"{layer}.z", shared=False),
        scalar(builder, out.scale),
        byte(builder, out.zero_point),
        builder.constant(bias, f"{layer}.b"),
    ]
    name = builder.add("QLinearConv", inputs, out.name, **form.attributes)
    codes = clipped(context, replace(out, name=name), layer)
    return codes, (
        f"QLinearConv, {found.weight_bits}-bit weights, codes {codes.low}…{codes.high} "
        f"(zero point {codes.zero_point}){found.flipped}{folded.note}{form.note}"
    )


def write_convolution(found: Convolution, layer: str, context: Context) -> Written:
    """Write Conv, Q, DQ."""
    scale = value_codes(found.output, found.clamp, context, layer).scale
    conv, note = _values(found, scale, layer, context)
    codes, text = quantized(conv, found.output, found.clamp, layer, context)
    return codes, f"Conv, {found.weight_bits}-bit weights as int8, {text}{found.flipped}{note}"


def written_convolution(found: Convolution, scale: np.float32, layer: str, context: Context) -> str:
    """Append only the convolution of values; returns its output. ``scale`` is that of the codes
    after it."""
    return _values(found, scale, layer, context)[0]


def _values(found: Convolution, scale: np.float32, layer: str, context: Context) -> tuple[str, str]:
    builder = context.builder
    folded = fold(found, scale, layer)
    bias = folded.bias
    if context.dialect.bias_on_grid:
        bias = int32_bias(bias, folded.grid, folded.weights, layer) * folded.grid
    inputs = [
        found.x.name,
        dequantized_weights(builder, folded.weights, folded.scale, layer),
        builder.constant(bias.astype(np.float32), f"{layer}.b"),
    ]
    return builder.add("Conv", inputs, f"{layer}.conv", **found.attributes), folded.note
