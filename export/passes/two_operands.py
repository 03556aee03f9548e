"""The common part of the sum and the product of two streams of codes: matching and writing."""

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
    named,
    scalar,
)


@dataclass(frozen=True, kw_only=True)
class TwoOperands:
    """The parts of Quant(Relu|Clip?(operator(codes, codes)))."""

    operator: str
    operands: tuple[Codes, ...]
    quantizer: Quantizer
    clamp: Clamp


def two_operands(
    node: onnx.NodeProto, context: Context, operator: str, *, called: str
) -> TwoOperands:
    """Match the ``operator`` before the quantizer ``node``; ``called`` names its operands."""
    found, clamp = clamp_before(node.input[0], context.source)
    if found is None or found.op_type != operator:
        raise Refusal(f"{named(found)} precedes it, not {operator} with Relu or Clip", other=True)
    operands = tuple(context.codes_of(name, f"the {called}") for name in found.input)
    quantizer = activation_quantizer(node, context)
    return TwoOperands(operator=operator, operands=operands, quantizer=quantizer, clamp=clamp)


def write_integer_operator(found: TwoOperands, layer: str, context: Context) -> Codes:
    """Write com.microsoft QLinearAdd or QLinearMul, and Clip if needed."""
    builder, out = context.builder, byte_codes(found.quantizer, found.clamp, layer)
    inputs: list[str] = []
    for codes in found.operands:
        inputs += [codes.name, scalar(builder, codes.scale), byte(builder, codes.zero_point)]
    inputs += [scalar(builder, out.scale), byte(builder, out.zero_point)]
    name = builder.add(f"QLinear{found.operator}", inputs, out.name, domain=MICROSOFT)
    return clipped(context, replace(out, name=name), layer)


def write_operator(found: TwoOperands, value: str, layer: str, context: Context) -> Written:
    """Write the operator on values, Q, DQ; ``value`` names its result."""
    names = [codes.name for codes in found.operands]
    result = context.builder.add(found.operator, names, value)
    return quantized(result, found.quantizer, found.clamp, layer, context)
