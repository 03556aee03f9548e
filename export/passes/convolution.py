"""Convolution, BatchNorm and quantizer as one QLinearConv, exactly.

With input codes x (zero point z_x, scale s_x), weight codes w and scales s_w[c], BatchNorm
y = gain[c] * conv + bias[c] and output scale s_y, zero point z_y:

    gain[c] * s_x * s_w[c] * sum (x - z_x) w + bias[c]
        = s_x * s'[c] * (sum (x - z_x) (sign(gain[c]) w) + B[c])
    s'[c] = s_w[c] * |gain[c]|            (the weight scale of QLinearConv)
    B[c]  = round(bias[c] / (s_x s'[c]))  (its int32 bias)

The integer weights stay as they were trained; a negative gain flips their sign, which the
symmetric narrow range allows.  A channel whose gain or whose weights are all 0 is constant: it has
weights 0 and s' = s_y / s_x, so that its int32 bias is the output code itself, rounded once.

QLinearConv computes round(acc * s_x s' / s_y) + z_y, saturated to uint8; narrower codes are held by
a uint8 Clip, and ReLU is the saturation at z_y = 0.  ReLU6, or any Clip to a … b before the
quantizer, only narrows the codes to round(a / s_y) … round(b / s_y): rounding is monotone, so the
clamp may as well come after it.

Which of the engine's kernels takes it is the matter of :mod:`export.passes.kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.passes.kernels import KernelForm, kernel_form
from export.passes.qonnx_graph import QonnxGraph, Quantizer, attributes_of
from export.passes.rule import (
    Clamp,
    Codes,
    Context,
    Emit,
    LoweringError,
    Refusal,
    Rule,
    activation_quantizer,
    byte,
    clamp_before,
    clip_codes,
    code_bounds,
    int32_bias,
    scalar,
)
from export.storage import stored_weights


@dataclass(frozen=True, kw_only=True)
class Affine:
    """y = gain * x + bias per channel, float64 (C,)."""

    gain: NDArray[np.float64]
    bias: NDArray[np.float64]


def affine_of(node: onnx.NodeProto, source: QonnxGraph) -> Affine | Refusal:
    """A BatchNormalization's gain and bias, in float64."""
    if any(name not in source.constants for name in node.input[1:]):
        return Refusal("its BatchNormalization has parameters that are no constants")
    gamma, beta, mean, variance = (source.constants[n].astype(np.float64) for n in node.input[1:])
    # ONNX holds epsilon as float32, and 0 and 1 are exact: an already folded one stays as it is.
    epsilon = float(attributes_of(node).get("epsilon", 1e-5))
    gain = gamma / np.sqrt(variance + epsilon)
    return Affine(gain=gain, bias=beta - mean * gain)


@dataclass(frozen=True, kw_only=True)
class ConvolutionPattern:
    """Quant(Relu|Clip?(BatchNormalization?(Conv(codes, Quant(weights), bias?)))), taken apart.

    Attributes:
        layer: the quantizer's output.
        x: the codes that the convolution reads.
        shape: theirs, N×C×H×W, where the file tells it.
        weights: integer codes O×C×kh×kw, int64, as they were trained.
        scale: of the weights, float64 (O,).
        weight_bits: of the weights' quantizer.
        affine: BatchNorm and bias together.
        quantizer: of the output.
        clamp: what a Relu or Clip before it does.
        attributes: of the Conv node.
    """

    layer: str
    x: Codes
    shape: tuple[int, ...] | None
    weights: NDArray[np.int64]
    scale: NDArray[np.float64]
    weight_bits: int
    affine: Affine
    quantizer: Quantizer
    clamp: Clamp
    attributes: dict[str, Any]

    @property
    def kept_attributes(self) -> dict[str, Any]:
        """The attributes that every target's convolution has."""
        names = ("kernel_shape", "strides", "pads", "dilations", "group")
        return {key: self.attributes[key] for key in names if key in self.attributes}

    @property
    def flipped(self) -> str:
        """Half a sentence on the channels whose weights change their sign; may be empty."""
        count = int((self.affine.gain < 0).sum())
        return f", {count} channels with a negative gain flipped" if count else ""


def convolution_pattern(node: onnx.NodeProto, context: Context) -> ConvolutionPattern | Refusal:
    """Take apart the convolution before the quantizer ``node``, or say what it is not."""
    source = context.source
    clamped = clamp_before(node.input[0], source)
    if isinstance(clamped, Refusal):
        return clamped
    below, clamp = clamped
    norm = below if below is not None and below.op_type == "BatchNormalization" else None
    conv = source.producer(norm.input[0]) if norm is not None else below
    if conv is None or conv.op_type != "Conv":
        return Refusal(
            "no Conv, optionally with BatchNormalization and Relu or Clip, stands before it"
        )
    x = context.codes.get(conv.input[0])
    if x is None:
        return Refusal(f"the convolution's input {conv.input[0]!r} has no integer codes")
    weights = source.weight_codes(conv.input[1])
    if weights is None:
        return Refusal(f"the weights {conv.input[1]!r} are no quantized constant")
    codes, weight_quantizer = weights
    channels = codes.shape[0]
    scale = weight_quantizer.scale.astype(np.float64)
    if scale.size not in (1, channels):
        return Refusal(f"its {scale.size} weight scales are not one or one per output channel")
    attributes = attributes_of(conv)
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return Refusal("auto_pad is not supported; write the padding out")
    affine: Affine | Refusal = Affine(gain=np.ones(channels), bias=np.zeros(channels))
    if norm is not None:
        affine = affine_of(norm, source)
    if isinstance(affine, Refusal):
        return affine
    if len(conv.input) > 2 and conv.input[2]:
        added = source.constant_values(conv.input[2])
        if added is None:
            return Refusal("its bias is no constant")
        affine = Affine(gain=affine.gain, bias=affine.bias + affine.gain * added.reshape(-1))
    quantizer = activation_quantizer(node, context)
    if isinstance(quantizer, Refusal):
        return quantizer
    return ConvolutionPattern(
        layer=node.output[0],
        x=x,
        shape=source.shapes.get(conv.input[0]),
        weights=codes,
        scale=np.broadcast_to(scale.reshape(-1), (channels,)),
        weight_bits=weight_quantizer.bits,
        affine=affine,
        quantizer=quantizer,
        clamp=clamp,
        attributes=attributes,
    )


@dataclass(frozen=True, kw_only=True)
class FoldedConvolution:
    """The convolution with BatchNorm folded into its scales.

    Attributes:
        weights: integer codes in int8's range, signs flipped where the gain is negative.
        scale: s', one per output channel, float64 holding float32 values.
        bias: in values, float64; of a constant channel the value of its code.
        grid: the accumulator's step in each channel, float64.
    """

    weights: NDArray[np.int64]
    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    grid: NDArray[np.float64]


def fold(pattern: ConvolutionPattern, *, output_scale: np.float32) -> FoldedConvolution:
    """Fold gain and bias as the module's algebra says, for an output quantized at this scale.

    Raises:
        LoweringError: a scale leaves float32's range, or a weight int8's.
    """
    affine, layer, codes = pattern.affine, pattern.layer, pattern.weights
    input_scale = float(pattern.x.scale)
    constant = (affine.gain == 0.0) | ~codes.reshape(len(codes), -1).any(axis=1)
    scale = np.where(
        constant, float(output_scale) / input_scale, pattern.scale * np.abs(affine.gain)
    )
    scale = scale.astype(np.float32).astype(np.float64)
    if not bool((np.isfinite(scale) & (scale > 0)).all()):
        raise LoweringError(f"{layer}: a weight scale times BatchNorm gain leaves float32's range")
    weights = codes * np.sign(affine.gain).astype(np.int64).reshape(-1, 1, 1, 1)
    if weights.min(initial=0) < -128 or weights.max(initial=0) > 127:
        raise LoweringError(
            f"{layer}: a weight of -128 under a negative BatchNorm gain has no opposite in int8; "
            "quantize weights with narrow_range"
        )
    grid = input_scale * scale
    # A constant's code is rounded once, in float32 as in training; past ±1024 it saturates anyway.
    code = np.rint(affine.bias.astype(np.float32) / output_scale).clip(-1024.0, 1024.0)
    bias = np.where(constant, code * grid, affine.bias)
    return FoldedConvolution(weights=weights, scale=scale, bias=bias, grid=grid)


class Convolution(Rule):
    """Quant(Relu|Clip?(BatchNormalization?(Conv(codes, Quant(weights), bias?)))) → QLinearConv."""

    name = "convolution"

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match the convolution before a quantizer; see :meth:`Rule.match`."""
        pattern = convolution_pattern(node, context)
        if isinstance(pattern, Refusal):
            return pattern
        found = pattern

        def emit() -> None:
            layer = found.layer
            zero_point, low, high = code_bounds(found.quantizer, found.clamp)
            out = Codes(
                name=layer,
                scale=np.float32(found.quantizer.scale.item()),
                zero_point=zero_point,
                low=low,
                high=high,
            )
            clipped = out.low > 0 or out.high < 255
            raw, form = _emit_convolution(
                context, found, out, f"{layer}.wide" if clipped else layer
            )
            context.codes[layer] = clip_codes(context, raw, replace(out, name=raw), layer)
            context.note(
                self,
                layer,
                f"QLinearConv, {found.weight_bits}-bit weights, codes "
                f"{low}…{high} (zero point {zero_point}){found.flipped}{form.note}",
            )

        return emit


def _emit_convolution(
    context: Context, pattern: ConvolutionPattern, out: Codes, name: str
) -> tuple[str, KernelForm]:
    builder, layer, x = context.builder, pattern.layer, pattern.x
    folded = fold(pattern, output_scale=out.scale)
    largest = np.abs(folded.weights).reshape(len(folded.weights), -1).sum(axis=1) * 255.0
    form = kernel_form(context, x, pattern.shape, folded.weights, pattern.kept_attributes)
    bias = int32_bias(folded.bias, folded.grid, largest, layer)
    inputs = [
        form.source,
        scalar(builder, x.scale),
        byte(builder, x.zero_point),
        stored_weights(builder, form.weights, pattern.weight_bits, f"{layer}.w", context.storage),
        builder.constant(folded.scale.astype(np.float32), f"{layer}.ws"),
        builder.constant(np.int8(form.zero_point), f"{layer}.z", shared=False),
        scalar(builder, out.scale),
        byte(builder, out.zero_point),
        builder.constant(bias, f"{layer}.b"),
    ]
    return builder.add("QLinearConv", inputs, name, **form.attributes), form
