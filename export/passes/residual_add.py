"""The residual add: both summands and the sum share one scale, so integers add exactly.

**All-integer.** With a = S (x_a - z_a), b = S (x_b - z_b) and output scale S, zero point z_y:
code = clamp((x_a - z_a) + (x_b - z_b) + z_y, 0, 255).  Nothing is rounded, and with z_y = 0 the
clamp at 0 is the ReLU.  Unequal scales would round twice and produce ties (QLinearAdd then differs
from exact arithmetic by one code on up to 6% of pairs), so they are refused.

**Q/DQ.** Both summands come from a DequantizeLinear and the sum goes into a QuantizeLinear, so a
compiler fuses Add, ReLU and the change of step into one operator on codes.  The signed dialect
doubles the step in all three.
"""

from __future__ import annotations

import onnx

from export.passes.rule import Context, Refusal, Written
from export.passes.two_operands import (
    TwoOperands,
    two_operands,
    write_integer_operator,
    write_operator,
)


def residual_add(node: onnx.NodeProto, context: Context) -> TwoOperands:
    """Match the sum before the quantizer ``node``."""
    return two_operands(node, context, "Add", called="summand")


def residual_add_at_one_scale(node: onnx.NodeProto, context: Context) -> TwoOperands:
    """Match the sum as :func:`residual_add`, if it rounds nothing."""
    found = residual_add(node, context)
    first, second = found.operands
    scale = found.quantizer.step
    if not first.scale == second.scale == scale:
        raise Refusal(
            f"its summands and its sum must share one scale, but they have {first.scale}, "
            f"{second.scale} and {scale}"
        )
    return found


def write_integer_add(found: TwoOperands, layer: str, context: Context) -> Written:
    """Write com.microsoft QLinearAdd, and Clip if needed."""
    codes = write_integer_operator(found, layer, context)
    return codes, f"QLinearAdd at one scale, codes {codes.low}…{codes.high}"


def write_add(found: TwoOperands, layer: str, context: Context) -> Written:
    """Write Add, Q, DQ."""
    codes, text = write_operator(found, f"{layer}.sum", layer, context)
    return codes, f"Add of two quantized tensors, {text}"
