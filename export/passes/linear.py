"""The last layer: logits[c] = s_x s_w[c] * (sum (x - z_x) w[c] + B[c]).

**All-integer**: B[c] = round(bias[c] / (s_x s_w[c])) in int32; QGemm without an output scale gives
exactly this in float32.  It is the only place where a float leaves the integer graph.

**Q/DQ**: Gemm on dequantized codes; weights are int8 codes behind one DequantizeLinear per class,
the bias is float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import attributes_of
from export.graph_builder import MICROSOFT
from export.passes.quantizers import dequantized_weights
from export.passes.rule import (
    Codes,
    Context,
    Refusal,
    Written,
    byte,
    int32_bias,
    quantized_weights,
    scalar,
)
from export.storage import stored_weights


@dataclass(frozen=True, kw_only=True)
class Linear:
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

    @property
    def grid(self) -> NDArray[np.float64]:
        """The accumulator's step for each class."""
        return float(self.x.scale) * self.scale.astype(np.float64)


def linear(node: onnx.NodeProto, context: Context) -> Linear:
    """Take apart the node that gives the logits."""
    attributes = attributes_of(node)
    if node.op_type != "Gemm":
        raise Refusal(f"the logits come from {node.op_type}, not from Gemm")
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
        raise Refusal("Gemm with alpha or beta other than 1 is not supported")
    if attributes.get("transA", 0):
        raise Refusal("Gemm with a transposed input is not supported")
    x = context.codes_of(node.input[0], "its input")
    weights, scale, bits = quantized_weights(
        node.input[1], context, transposed=not attributes.get("transB", 0), what="class"
    )
    bias = np.zeros(1)
    if len(node.input) > 2 and node.input[2]:
        stored = context.source.constant_values(node.input[2])
        if stored is None or stored.size not in (1, len(weights)):
            raise Refusal("its bias is no constant, or not one value per class")
        bias = stored.reshape(-1)
    bias = np.broadcast_to(bias, (len(weights),))
    return Linear(x=x, weights=weights, weight_bits=bits, scale=scale, bias=bias)


def write_integer_linear(found: Linear, layer: str, context: Context) -> Written:
    """com.microsoft QGemm."""
    builder, x, bits = context.builder, found.x, found.weight_bits
    zero_points = np.zeros(len(found.weights), np.int8)
    inputs = [
        x.name,
        scalar(builder, x.scale),
        byte(builder, x.zero_point),
        stored_weights(builder, found.weights, bits, f"{layer}.w", context.storage),
        builder.constant(found.scale, f"{layer}.ws"),
        builder.constant(zero_points, f"{layer}.z", shared=False),
        builder.constant(int32_bias(found.bias, found.grid, found.weights, layer), f"{layer}.b"),
    ]
    builder.add("QGemm", inputs, layer, domain=MICROSOFT, transB=1)
    return None, f"QGemm, {bits}-bit weights, float32 logits"


def write_gemm(found: Linear, layer: str, context: Context) -> Written:
    """Gemm on values."""
    builder, bias = context.builder, found.bias
    if context.dialect.bias_on_grid:
        bias = int32_bias(bias, found.grid, found.weights, layer) * found.grid
    inputs = [
        found.x.name,
        dequantized_weights(builder, found.weights, found.scale, layer),
        builder.constant(bias.astype(np.float32), f"{layer}.b"),
    ]
    builder.add("Gemm", inputs, layer, transB=1)
    return None, f"Gemm, {found.weight_bits}-bit weights as int8"
