"""Global average pooling between quantizers: GlobalAveragePool → Q, DQ.

With the step s_y = s_x (n + 1) / n of :mod:`export.passes.average_pool` the mean of codes is
sum / (n + 1) in steps of s_y: no tie for an even n, and none in the signed dialect either, which
doubles both steps.
"""

from __future__ import annotations

import onnx

from export.passes.average_pool import average_pool_pattern
from export.passes.qdq.dialect import Dialect, described, write_quantizer
from export.passes.rule import Clamp, Context, Emit, Refusal, Rule


class QdqAveragePool(Rule):
    """Quant(GlobalAveragePool or ReduceMean(codes)) → GlobalAveragePool, Q, DQ."""

    name = "global average pool"

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match the pool of codes before a quantizer; see :meth:`Rule.match`."""
        pattern = average_pool_pattern(node, context)
        if isinstance(pattern, Refusal):
            return pattern
        found, layer = pattern, node.output[0]

        def emit() -> None:
            builder = context.builder
            pooled = builder.add("GlobalAveragePool", [found.x.name], f"{layer}.mean")
            if found.flat:
                pooled = builder.add("Flatten", [pooled], f"{layer}.flat", axis=1)
            codes = write_quantizer(context, self.dialect, pooled, found.quantizer, Clamp(), layer)
            context.note(self, layer, f"GlobalAveragePool, {described(codes)}")

        return emit
