"""The last layer: integer matrix product, float logits.

logits[c] = s_x s_w[c] * (sum (x - z_x) w[c] + B[c]) with B[c] = round(bias[c] / (s_x s_w[c])) in
int32: QGemm without an output scale gives exactly this in float32.  It is the only place where a
float leaves the integer graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph_builder import MICROSOFT
from export.passes.qonnx_graph import attributes_of
from export.passes.rule import Codes, Context, Emit, Place, Refusal, Rule, byte, int32_bias, scalar
from export.storage import stored_weights


@dataclass(frozen=True, kw_only=True)
class LinearPattern:
    """Gemm(codes, Quant(weights), bias?), taken apart.

    Attributes:
        x: the codes that it reads.
        weights: integer codes, classes×features, int64.
        weight_bits: of the weights' quantizer.
        scale: of the weights, float32 (classes,).
        bias: float64 (classes,).
    """

    x: Codes
    weights: NDArray[np.int64]
    weight_bits: int
    scale: NDArray[np.float32]
    bias: NDArray[np.float64]


def linear_pattern(node: onnx.NodeProto, context: Context) -> LinearPattern | Refusal:
    """Take apart the node that gives the logits, or say what it is not."""
    source = context.source
    attributes = attributes_of(node)
    if node.op_type != "Gemm":
        return Refusal(f"the logits come from {node.op_type}, not from Gemm")
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        return Refusal("Gemm with alpha or beta other than 1 is not supported")
    if attributes.get("transA", 0):
        return Refusal("Gemm with a transposed input is not supported")
    x = context.codes.get(node.input[0])
    if x is None:
        return Refusal(f"its input {node.input[0]!r} has no integer codes")
    weights = source.weight_codes(node.input[1])
    if weights is None:
        return Refusal(f"the weights {node.input[1]!r} are no quantized constant")
    codes, quantizer = weights
    if not attributes.get("transB", 0):
        codes = np.ascontiguousarray(codes.T)
    classes = codes.shape[0]
    if quantizer.scale.size not in (1, classes):
        return Refusal("its weight scales are not one or one per class")
    bias = np.zeros(classes)
    if len(node.input) > 2 and node.input[2]:
        stored = source.constant_values(node.input[2])
        if stored is None or stored.size not in (1, classes):
            return Refusal("its bias is no constant, or not one value per class")
        bias = np.broadcast_to(stored.reshape(-1), (classes,))
    scale = np.broadcast_to(quantizer.scale.reshape(-1), (classes,)).astype(np.float32)
    return LinearPattern(x=x, weights=codes, weight_bits=quantizer.bits, scale=scale, bias=bias)


def linear_bias(pattern: LinearPattern, layer: str) -> NDArray[np.int32]:
    """The bias in steps of the accumulator; ``LoweringError`` where int32 is too small."""
    grid = float(pattern.x.scale) * pattern.scale.astype(np.float64)
    largest = np.abs(pattern.weights).sum(axis=1) * 255.0
    return int32_bias(pattern.bias, grid, largest, layer)


class Linear(Rule):
    """Gemm(codes, Quant(weights), bias) → com.microsoft QGemm."""

    name = "linear"
    place = Place.LOGITS

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match the layer that gives the logits; see :meth:`Rule.match`."""
        pattern = linear_pattern(node, context)
        if isinstance(pattern, Refusal):
            return pattern
        found, layer = pattern, node.output[0]

        def emit() -> None:
            builder, x, bits = context.builder, found.x, found.weight_bits
            zero_points = np.zeros(len(found.weights), np.int8)
            builder.add(
                "QGemm",
                [
                    x.name,
                    scalar(builder, x.scale),
                    byte(builder, x.zero_point),
                    stored_weights(builder, found.weights, bits, f"{layer}.w", context.storage),
                    builder.constant(found.scale, f"{layer}.ws"),
                    builder.constant(zero_points, f"{layer}.z", shared=False),
                    builder.constant(linear_bias(found, layer), f"{layer}.b"),
                ],
                layer,
                domain=MICROSOFT,
                transB=1,
            )
            context.note(self, layer, f"QGemm, {bits}-bit weights, float32 logits")

        return emit
