"""Max-pool and moves of codes between quantizers: the operator on values, then the same Q, DQ.

The operator gives values k·s it was given, so quantizing them at s once more changes none: k·s / s
is k to within one rounding in float32, and rounds to k. With the pair behind it a compiler sees an
operator that reads codes and gives codes, and the next convolution one that reads codes.
"""

from __future__ import annotations

from dataclasses import replace

import onnx

from export.passes.qdq.dialect import Dialect, quantized_and_back
from export.passes.rule import Context, Emit, Place, Refusal, Rule


class QdqKept(Rule):
    """What the wrapped rule does to codes → the same on values, Q, DQ."""

    place = Place.CODES

    def __init__(self, dialect: Dialect, rule: Rule) -> None:
        self.dialect = dialect
        self.rule = rule
        self.name = rule.name

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match what the wrapped rule does; see :meth:`Rule.match`."""
        inner = self.rule.match(node, context)
        if isinstance(inner, Refusal):
            return inner
        layer = node.output[0]

        def emit() -> None:
            inner()
            codes = context.codes[layer]
            signed = self.dialect.signed_only or codes.low < 0
            name = quantized_and_back(
                context, codes.name, codes.scale, f"{layer}.codes", signed=signed
            )
            context.codes[layer] = replace(codes, name=name)

        return emit
