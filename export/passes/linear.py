"""The last layer: integer matrix product, float logits.

logits[c] = s_x s_w[c] * (sum (x - z_x) w[c] + B[c]) with B[c] = round(bias[c] / (s_x s_w[c])) in
int32: QGemm without an output scale gives exactly this in float32.  It is the only place where a
float leaves the integer graph.
"""

from __future__ import annotations

import numpy as np
import onnx

from export.graph_builder import MICROSOFT
from export.passes.qonnx_graph import attributes_of
from export.passes.rule import Context, Emit, Refusal, Rule, byte, int32_bias, scalar
from export.storage import stored_weights


class Linear(Rule):
    """Gemm(codes, Quant(weights), bias) → com.microsoft QGemm."""

    name = "linear"

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match the layer that gives the logits; see :meth:`Rule.match`."""
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
        layer = node.output[0]
        source_codes = x

        def emit() -> None:
            builder = context.builder
            scale = np.broadcast_to(quantizer.scale.reshape(-1), (classes,)).astype(np.float32)
            grid = float(source_codes.scale) * scale.astype(np.float64)
            largest = np.abs(codes).sum(axis=1) * 255.0
            builder.add(
                "QGemm",
                [
                    source_codes.name,
                    scalar(builder, source_codes.scale),
                    byte(builder, source_codes.zero_point),
                    stored_weights(builder, codes, quantizer.bits, f"{layer}.w", context.storage),
                    builder.constant(scale, f"{layer}.ws"),
                    builder.constant(np.zeros(classes, np.int8), f"{layer}.z", shared=False),
                    builder.constant(int32_bias(bias, grid, largest, layer), f"{layer}.b"),
                ],
                layer,
                domain=MICROSOFT,
                transB=1,
            )
            context.note(self, layer, f"QGemm, {quantizer.bits}-bit weights, float32 logits")

        return emit
