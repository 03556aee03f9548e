"""The residual add between quantizers: Add(DQ, DQ) → clamp → Q, DQ.

Both summands come from a DequantizeLinear and the sum goes into a QuantizeLinear, so a compiler
fuses Add, ReLU and the change of step into one operator on codes. All three share one step (the
signed dialect doubles it in all three), so the sum of codes is exact and rounds nothing.
"""

from __future__ import annotations

import onnx

from export.passes.qdq.dialect import Dialect, described, write_quantizer
from export.passes.residual_add import residual_add_pattern
from export.passes.rule import Context, Emit, Refusal, Rule


class QdqResidualAdd(Rule):
    """Quant(Relu|Clip?(Add(codes, codes))) → Add, Q, DQ."""

    name = "residual add"

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match the sum of codes before a quantizer; see :meth:`Rule.match`."""
        pattern = residual_add_pattern(node, context)
        if isinstance(pattern, Refusal):
            return pattern
        found, layer = pattern, node.output[0]

        def emit() -> None:
            inputs = [codes.name for codes in found.summands]
            total = context.builder.add("Add", inputs, f"{layer}.sum")
            codes = write_quantizer(
                context, self.dialect, total, found.quantizer, found.clamp, layer
            )
            context.note(self, layer, f"Add of two quantized tensors, {described(codes)}")

        return emit
