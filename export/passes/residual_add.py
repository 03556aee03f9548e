"""The residual add: both summands and the sum share one scale, so integers add exactly.

**All-integer.** With a = S (x_a - z_a), b = S (x_b - z_b) and output scale S, zero point z_y:
code = clamp((x_a - z_a) + (x_b - z_b) + z_y, 0, 255): no rounding at all, and with z_y = 0 the
clamp at 0 is the ReLU.  Unequal scales would round twice and tie (QLinearAdd then differs from
exact arithmetic by one code on up to 6% of pairs), so they are refused.

**Q/DQ.** Both summands come from a DequantizeLinear and the sum goes into a QuantizeLinear, so a
compiler fuses Add, ReLU and the change of step into one operator on codes.  The signed dialect
doubles the step in all three.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx

from export.graph_builder import MICROSOFT
from export.passes.qonnx_graph import Quantizer
from export.passes.quantizers import quantized
from export.passes.rule import (
    Clamp,
    Codes,
    Context,
    Refusal,
    Written,
    activation_quantizer,
    byte,
    byte_codes,
    clamp_before,
    clipped,
    scalar,
)


@dataclass(frozen=True, kw_only=True)
class ResidualAdd:
    """Quant(Relu|Clip?(Add(codes, codes))), taken apart."""

    summands: tuple[Codes, ...]
    quantizer: Quantizer
    clamp: Clamp


def residual_add(node: onnx.NodeProto, context: Context) -> ResidualAdd:
    """Take apart the sum before the quantizer ``node``."""
    add, clamp = clamp_before(node.input[0], context.source)
    if add is None or add.op_type != "Add":
        raise Refusal("no Add, optionally with Relu or Clip, stands before it")
    summands = tuple(context.codes_of(name, "the summand") for name in add.input)
    quantizer = activation_quantizer(node, context)
    return ResidualAdd(summands=summands, quantizer=quantizer, clamp=clamp)


def residual_add_at_one_scale(node: onnx.NodeProto, context: Context) -> ResidualAdd:
    """The same, and nothing in it rounds."""
    found = residual_add(node, context)
    first, second = found.summands
    scale = found.quantizer.step
    if not first.scale == second.scale == scale:
        raise Refusal(
            f"its summands and its sum must share one scale, they have {first.scale}, "
            f"{second.scale} and {scale}"
        )
    return found


def write_integer_add(found: ResidualAdd, layer: str, context: Context) -> Written:
    """com.microsoft QLinearAdd (Clip)."""
    builder, out = context.builder, byte_codes(found.quantizer, found.clamp, layer)
    inputs: list[str] = []
    for codes in found.summands:
        inputs += [codes.name, scalar(builder, out.scale), byte(builder, codes.zero_point)]
    inputs += [scalar(builder, out.scale), byte(builder, out.zero_point)]
    name = builder.add("QLinearAdd", inputs, out.name, domain=MICROSOFT)
    codes = clipped(context, replace(out, name=name), layer)
    return codes, f"QLinearAdd at one scale, codes {codes.low}…{codes.high}"


def write_add(found: ResidualAdd, layer: str, context: Context) -> Written:
    """Add, Q, DQ."""
    total = context.builder.add("Add", [codes.name for codes in found.summands], f"{layer}.sum")
    codes, text = quantized(total, found.quantizer, found.clamp, layer, context)
    return codes, f"Add of two quantized tensors, {text}"
