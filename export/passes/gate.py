"""Gates: products of codes with codes of values 0 … 1.

code_y = round((x - z_x)(g - z_g) s_x s_g / s_y) + z_y is QLinearMul's formula.  With s_g = 1/255
and s_y = s_x the product is divided by 255, an odd number, and is never halfway between two codes,
so every order of the float32 operations rounds the same.  Other scales are refused if a product
lies near a half.
"""

from __future__ import annotations

import numpy as np
import onnx

from export.passes.requantize import MARGIN
from export.passes.rule import Context, Refusal, Written
from export.passes.two_operands import (
    TwoOperands,
    two_operands,
    write_integer_operator,
    write_operator,
)


def gate(node: onnx.NodeProto, context: Context) -> TwoOperands:
    """Match the product before the quantizer ``node``."""
    return two_operands(node, context, "Mul", called="factor")


def gate_without_ties(node: onnx.NodeProto, context: Context) -> TwoOperands:
    """Match the product as :func:`gate`, if no product of codes lies near a half."""
    found = gate(node, context)
    first, second = found.operands
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
            "the scale of the gated tensor has no ties)"
        )
    return found


def write_integer_gate(found: TwoOperands, layer: str, context: Context) -> Written:
    """Write com.microsoft QLinearMul, and Clip if needed."""
    codes = write_integer_operator(found, layer, context)
    return codes, f"QLinearMul, codes {codes.low}…{codes.high}"


def write_gate(found: TwoOperands, layer: str, context: Context) -> Written:
    """Write Mul of values, Q, DQ."""
    codes, text = write_operator(found, f"{layer}.mul", layer, context)
    return codes, f"Mul, {text}"
