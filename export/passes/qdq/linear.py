"""The last layer: Gemm on dequantized codes, float logits.

logits[c] = s_x s_w[c] (sum x w[c]) + bias[c]; weights are int8 codes behind one DequantizeLinear
per class, the bias is float32.
"""

from __future__ import annotations

import numpy as np
import onnx

from export.passes.linear import linear_bias, linear_pattern
from export.passes.qdq.dialect import Dialect
from export.passes.rule import Context, Emit, Place, Refusal, Rule


class QdqLinear(Rule):
    """Gemm(codes, Quant(weights), bias) → Gemm."""

    name = "linear"
    place = Place.LOGITS

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match the layer that gives the logits; see :meth:`Rule.match`."""
        pattern = linear_pattern(node, context)
        if isinstance(pattern, Refusal):
            return pattern
        found, layer = pattern, node.output[0]

        def emit() -> None:
            builder = context.builder
            bias = found.bias
            if self.dialect.bias_on_grid:
                grid = float(found.x.scale) * found.scale.astype(np.float64)
                bias = linear_bias(found, layer) * grid
            classes = len(found.weights)
            stored = [
                builder.constant(found.weights.astype(np.int8), f"{layer}.w", shared=False),
                builder.constant(found.scale, f"{layer}.ws"),
                builder.constant(np.zeros(classes, np.int8), f"{layer}.wz", shared=False),
            ]
            inputs = [
                found.x.name,
                builder.add("DequantizeLinear", stored, f"{layer}.weights", axis=0),
                builder.constant(bias.astype(np.float32), f"{layer}.b"),
            ]
            builder.add("Gemm", inputs, layer, transB=1)
            context.note(self, layer, f"Gemm, {found.weight_bits}-bit weights as int8")

        return emit
