"""The residual add: both summands and the sum share one scale, so integers add exactly.

With a = S (x_a - z_a), b = S (x_b - z_b) and output scale S, zero point z_y:
code = clamp((x_a - z_a) + (x_b - z_b) + z_y, 0, 255): no rounding at all, and with z_y = 0 the
clamp at 0 is the ReLU.  Unequal scales would round twice and tie (QLinearAdd then differs from
exact arithmetic by one code on up to 6% of pairs), so they are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from export.graph_builder import MICROSOFT
from export.passes.qonnx_graph import Quantizer
from export.passes.rule import (
    Clamp,
    Codes,
    Context,
    Emit,
    Refusal,
    Rule,
    activation_quantizer,
    byte,
    clamp_before,
    clip_codes,
    code_bounds,
    scalar,
)


@dataclass(frozen=True, kw_only=True)
class ResidualAddPattern:
    """Quant(Relu|Clip?(Add(codes, codes))), taken apart."""

    summands: tuple[Codes, Codes]
    quantizer: Quantizer
    clamp: Clamp


def residual_add_pattern(node: onnx.NodeProto, context: Context) -> ResidualAddPattern | Refusal:
    """Take apart the sum before the quantizer ``node``, or say what it is not."""
    source = context.source
    clamped = clamp_before(node.input[0], source)
    if isinstance(clamped, Refusal):
        return clamped
    add, clamp = clamped
    if add is None or add.op_type != "Add":
        return Refusal("no Add, optionally with Relu or Clip, stands before it")
    a, b = (context.codes.get(name) for name in add.input)
    if a is None or b is None:
        name = add.input[0] if a is None else add.input[1]
        return Refusal(f"the summand {name!r} has no integer codes (it is not quantized)")
    quantizer = activation_quantizer(node, context)
    if isinstance(quantizer, Refusal):
        return quantizer
    return ResidualAddPattern(summands=(a, b), quantizer=quantizer, clamp=clamp)


class ResidualAdd(Rule):
    """Quant(Relu|Clip?(Add(codes, codes))) → com.microsoft QLinearAdd (Clip)."""

    name = "residual add"

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match the sum of codes before a quantizer; see :meth:`Rule.match`."""
        pattern = residual_add_pattern(node, context)
        if isinstance(pattern, Refusal):
            return pattern
        quantizer, clamp, (first, second) = pattern.quantizer, pattern.clamp, pattern.summands
        scale = np.float32(quantizer.scale.item())
        if not first.scale == second.scale == scale:
            return Refusal(
                f"its summands and its sum must share one scale, they have {first.scale}, "
                f"{second.scale} and {scale}"
            )
        layer = node.output[0]

        def emit() -> None:
            builder = context.builder
            zero_point, low, high = code_bounds(quantizer, clamp)
            clipped = low > 0 or high < 255
            inputs: list[str] = []
            for codes in (first, second):
                inputs += [codes.name, scalar(builder, scale), byte(builder, codes.zero_point)]
            inputs += [scalar(builder, scale), byte(builder, zero_point)]
            name = f"{layer}.wide" if clipped else layer
            raw = builder.add("QLinearAdd", inputs, name, domain=MICROSOFT)
            codes = Codes(name=raw, scale=scale, zero_point=zero_point, low=low, high=high)
            context.codes[layer] = clip_codes(context, raw, codes, layer)
            context.note(self, layer, f"QLinearAdd at one scale, codes {low}…{high}")

        return emit
