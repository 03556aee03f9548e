"""Requantization of codes to a coarser step: [Clip] → Q, DQ on the dequantized codes.

code_y = round(k s_x / s_y), clamped. This project's s_y is an odd multiple of s_x, so the quotient
is never a half, whichever way a runtime computes it.

Unsigned codes are not negative, so a Relu in front changes none of them.  The standard dialect
writes one: OpenVINO fuses a quantizer into an operator before it and runs both on bytes; a clamp
and a quantizer by themselves it runs in float, with a change of layout before and after.
"""

from __future__ import annotations

import onnx

from export.passes.qdq.dialect import Dialect, described, write_quantizer
from export.passes.rule import Clamp, Context, Emit, Refusal, Rule, activation_quantizer


class QdqRequantize(Rule):
    """Quant(codes) → Q, DQ."""

    name = "requantize"

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match a quantizer of codes; see :meth:`Rule.match`."""
        x = context.codes.get(node.input[0])
        if x is None:
            return Refusal(f"its input {node.input[0]!r} has no integer codes")
        quantizer = activation_quantizer(node, context)
        if isinstance(quantizer, Refusal):
            return quantizer
        layer, source = node.output[0], x

        def emit() -> None:
            read = source.name
            if self.dialect.relu_before_requantizing and source.low >= 0:
                read = context.builder.add("Relu", [read], f"{layer}.relu")
            codes = write_quantizer(context, self.dialect, read, quantizer, Clamp(), layer)
            ratio = float(codes.scale) / float(source.scale)
            context.note(self, layer, f"requantized by {ratio:.6g}, {described(codes)}")

        return emit
