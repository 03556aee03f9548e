"""Convolution, BatchNorm and quantizer as Conv on dequantized codes.

With the algebra of :mod:`export.passes.convolution`, in values:

    gain[c] * conv(x) + bias[c] = conv(x; s'[c] (sign(gain[c]) w)) + bias[c]
    s'[c] = s_w[c] |gain[c]|

so the weights are int8 codes behind one DequantizeLinear per output channel, BatchNorm leaves no
node, and the bias is float32. A constant channel has weights 0 and its code's value as bias.
"""

from __future__ import annotations

import numpy as np
import onnx

from export.passes.convolution import convolution_pattern, fold
from export.passes.qdq.dialect import Dialect, described, write_quantizer
from export.passes.rule import Context, Emit, Refusal, Rule, int32_bias


class QdqConvolution(Rule):
    """Quant(Relu|Clip?(BatchNormalization?(Conv(codes, Quant(weights), bias?)))) → Conv, Q, DQ."""

    name = "convolution"

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match the convolution before a quantizer; see :meth:`Rule.match`."""
        pattern = convolution_pattern(node, context)
        if isinstance(pattern, Refusal):
            return pattern
        found = pattern

        def emit() -> None:
            builder, layer = context.builder, found.layer
            out = self.dialect.output_codes(found.quantizer, found.clamp, context.source, layer)
            folded = fold(found, output_scale=out.scale)
            weights = folded.weights.astype(np.int8)
            bias = folded.bias
            if self.dialect.bias_on_grid:
                largest = np.abs(folded.weights).reshape(len(weights), -1).sum(axis=1) * 255.0
                bias = int32_bias(bias, folded.grid, largest, layer) * folded.grid
            stored = [
                builder.constant(weights, f"{layer}.w", shared=False),
                builder.constant(folded.scale.astype(np.float32), f"{layer}.ws"),
                builder.constant(np.zeros(len(weights), np.int8), f"{layer}.wz", shared=False),
            ]
            inputs = [
                found.x.name,
                builder.add("DequantizeLinear", stored, f"{layer}.weights", axis=0),
                builder.constant(bias.astype(np.float32), f"{layer}.b"),
            ]
            conv = builder.add("Conv", inputs, f"{layer}.conv", **found.kept_attributes)
            codes = write_quantizer(
                context, self.dialect, conv, found.quantizer, found.clamp, layer
            )
            context.note(
                self,
                layer,
                f"Conv, {found.weight_bits}-bit weights as int8, {described(codes)}{found.flipped}",
            )

        return emit
