"""Gates: a product of codes with codes of 0 … 1.

code_y = round((x - z_x)(g - z_g) s_x s_g / s_y) + z_y, QLinearMul's own formula.  With s_g = 1/255
and s_y = s_x the product is divided by 255, an odd number, and is never halfway between two codes:
every order of the float32 operations rounds alike.  Other scales are refused where a product comes
near a half.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from export.graph_builder import MICROSOFT
from export.passes.qonnx_graph import Quantizer
from export.passes.quantizers import quantized
from export.passes.requantize import MARGIN
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
class Gate:
    """Quant(Relu|Clip?(Mul(codes, codes))), taken apart."""

    factors: tuple[Codes, Codes]
    quantizer: Quantizer
    clamp: Clamp


def gate(node: onnx.NodeProto, context: Context) -> Gate:
    """Take apart the product before the quantizer ``node``."""
    product, clamp = clamp_before(node.input[0], context.source)
    if product is None or product.op_type != "Mul":
        raise Refusal("no Mul, optionally with Relu or Clip, stands before it")
    first, second = (context.codes_of(name, "the factor") for name in product.input)
    return Gate(factors=(first, second), quantizer=activation_quantizer(node, context), clamp=clamp)


def gate_without_ties(node: onnx.NodeProto, context: Context) -> Gate:
    """The same, if no product of codes lies near a half."""
    found = gate(node, context)
    first, second = found.factors
    steps = float(first.scale) * float(second.scale) / float(found.quantizer.step)
    products = np.unique(
        np.multiply.outer(
            np.arange(first.low, first.high + 1) - first.zero_point,
            np.arange(second.low, second.high + 1) - second.zero_point,
        )
    )
    exact = products * steps
    nearest = float(np.abs(exact - np.floor(exact) - 0.5).min())
    if nearest < MARGIN:
        raise Refusal(
            f"with scales {first.scale} · {second.scale} → {found.quantizer.step} a product lies "
            f"{nearest:.1e} from a rounding tie; engines may disagree (a gate of scale 1/255 on "
            "the scale of what it gates has none)"
        )
    return found


def write_integer_gate(found: Gate, layer: str, context: Context) -> Written:
    """com.microsoft QLinearMul (Clip)."""
    builder = context.builder
    out = byte_codes(found.quantizer, found.clamp, layer)
    inputs: list[str] = []
    for codes in found.factors:
        inputs += [codes.name, scalar(builder, codes.scale), byte(builder, codes.zero_point)]
    inputs += [scalar(builder, out.scale), byte(builder, out.zero_point)]
    name = builder.add("QLinearMul", inputs, out.name, domain=MICROSOFT)
    codes = clipped(context, replace(out, name=name), layer)
    return codes, f"QLinearMul, codes {codes.low}…{codes.high}"


def write_gate(found: Gate, layer: str, context: Context) -> Written:
    """Mul of values, Q, DQ."""
    names = [codes.name for codes in found.factors]
    product = context.builder.add("Mul", names, f"{layer}.mul")
    codes, text = quantized(product, found.quantizer, found.clamp, layer, context)
    return codes, f"Mul, {text}"
