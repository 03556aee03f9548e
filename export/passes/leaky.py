"""Leaky ReLU of a convolution without codes between the two, or of codes per channel.

leaky(v) is v above 0 and a v below, 0 ≤ a ≤ 1.  Rounding is monotone and 0 is a code, so the codes
of leaky(v) are the codes of v clamped to at least 0 plus those of a v clamped to at most 0.  They
are written as two QLinearConv of the same codes, one with the scales a s', and their sum at one
scale, of which one summand is always 0.  Codes are convolved with the constant 1 per channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import attributes_of, node_label
from export.passes.convolution import (
    Convolution,
    channel_map_before,
    convolution_before,
    write_integer_convolution,
    written_convolution,
)
from export.passes.quantizers import quantized
from export.passes.rule import (
    Clamp,
    Context,
    Refusal,
    Written,
    activation_quantizer,
    byte_codes,
    clamp_before,
    named,
)
from export.passes.two_operands import TwoOperands, write_integer_operator
from export.passes.weighted_sum import Affine, affine_before


@dataclass(frozen=True, kw_only=True)
class Leaky:
    """The parts of Quant(Clip?(LeakyRelu or PRelu(convolution))).

    Attributes:
        convolution: up to the function, with the quantizer.
        slope: below 0, float64 (1,) or (C,).
        clamp: after the function.
    """

    convolution: Convolution
    slope: NDArray[np.float64]
    clamp: Clamp


def leaky(node: onnx.NodeProto, context: Context) -> Leaky:
    """Match the leaky ReLU before the quantizer ``node`` and the convolution before it."""
    found, clamp = clamp_before(node.input[0], context.source)
    if found is None or found.op_type not in ("LeakyRelu", "PRelu"):
        raise Refusal(f"{named(found)} precedes it, not a LeakyRelu or PRelu", other=True)
    if found.op_type == "LeakyRelu":
        slope = np.array([float(attributes_of(found).get("alpha", 0.01))])
    else:
        stored = context.source.constants.get(found.input[1])
        if stored is None or stored.size != max(stored.shape, default=1):
            raise Refusal(f"{node_label(found)} has neither one slope nor one slope per channel")
        slope = stored.astype(np.float64).reshape(-1)
    if not bool(((slope >= 0.0) & (slope <= 1.0)).all()):
        raise Refusal(f"{node_label(found)} has slopes outside 0…1")
    maker = affine_before(found.input[0], context, ("Conv",))[0]
    before = channel_map_before if maker is None else convolution_before
    convolution = before(found.input[0], context)
    if convolution.clamp != Clamp():
        raise Refusal(f"a Relu or Clip precedes {node_label(found)}")
    quantizer = activation_quantizer(node, context)
    low, high = quantizer.code_range()
    if not low <= 0 <= high:
        raise Refusal("0 is not a code of its quantizer")
    return Leaky(convolution=replace(convolution, quantizer=quantizer), slope=slope, clamp=clamp)


def write_integer_leaky(found: Leaky, layer: str, context: Context) -> Written:
    """Write two QLinearConv and their sum."""
    whole = found.convolution
    channels = len(whole.weights)
    below = Affine(gain=found.slope, bias=np.zeros(1)).after(whole.affine).of(channels)
    positive = replace(whole, clamp=Clamp(low=0.0))
    negative = replace(whole, affine=below, clamp=Clamp(high=0.0))
    codes = [
        write_integer_convolution(part, f"{layer}.{sign}", context)[0]
        for sign, part in (("positive", positive), ("negative", negative))
    ]
    operands = tuple(one for one in codes if one is not None)
    total = TwoOperands(
        operator="Add", operands=operands, quantizer=whole.output, clamp=found.clamp
    )
    out = write_integer_operator(total, layer, context)
    return out, f"two QLinearConv, above and below 0, and their sum, codes {out.low}…{out.high}"


def write_leaky(found: Leaky, layer: str, context: Context) -> Written:
    """Write Conv, LeakyRelu, Q, DQ."""
    if len(found.slope) != 1:
        raise Refusal("one slope per channel has no Q/DQ form")
    scale = byte_codes(found.convolution.output, found.clamp, layer).scale
    conv = written_convolution(found.convolution, scale, layer, context)
    alpha = float(np.float32(found.slope[0]))
    value = context.builder.add("LeakyRelu", [conv], f"{layer}.leaky", alpha=alpha)
    codes, text = quantized(value, found.convolution.output, found.clamp, layer, context)
    return codes, f"Conv, LeakyRelu, {text}"
