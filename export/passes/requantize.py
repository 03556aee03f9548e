"""Requantization of codes to a coarser scale: y = round(x * s_x / s_y), clamped.

**All-integer**: one vectorised operator, QLinearAdd with a constant 0 as second summand.  The clip
to b bits costs nothing for unsigned codes: they are stored with zero point z = 256 - 2^b, so uint8
itself saturates at 255 = z + (2^b - 1), and they cannot fall below z because the stream is not
negative.  The next convolution reads that zero point, and pads with it.  Signed codes, and a clip
without a change of scale, need a uint8 Clip.

A QLinearConcat of one input does the same by table lookup, several times slower
(results/benchmarks/requantization.json); a DequantizeLinear → QuantizeLinear pair does it through
float32 memory.

Engines evaluate that formula in different orders in float32, with or without fused multiply-add.
They can disagree only where x * s_x / s_y lies within rounding error of a half.  So all 256 codes
are checked here, and scales that bring one nearer than :data:`MARGIN` to a half are refused.  This
project's networks have s_y = odd * s_x, which keeps every code 1 / (2 odd) away from a half and
makes the Q/DQ form unambiguous as well.

**Q/DQ**: the quantizer on the dequantized codes.  Unsigned codes are not negative, so a Relu before
it changes none of them.  The standard dialect writes one, because OpenVINO fuses a quantizer into
the operator before it and runs both on bytes.  It runs a clamp and a quantizer alone in float, with
a change of layout before and after.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from export.graph_builder import MICROSOFT
from export.passes.qonnx_graph import Quantizer
from export.passes.quantizers import quantized
from export.passes.rule import (
    BYTE_HIGH,
    Clamp,
    Codes,
    Context,
    Refusal,
    Written,
    activation_quantizer,
    byte,
    byte_codes,
    clipped,
    scalar,
)

MARGIN = 1e-3
"""Least distance from a half, in output codes. Float32 errors are below 256 * 2^-22 = 6e-5."""

Requantization = tuple[Codes, Quantizer]


def requantization(node: onnx.NodeProto, context: Context) -> Requantization:
    """Match Quant(codes)."""
    if node.input[0] not in context.codes:
        raise Refusal(f"its input {node.input[0]!r} has no integer codes", other=True)
    return context.codes[node.input[0]], activation_quantizer(node, context)


def requantization_without_ties(node: onnx.NodeProto, context: Context) -> Requantization:
    """Match Quant(codes) if no code lies near a half."""
    x, quantizer = requantization(node, context)
    scale = quantizer.step
    least, largest = context.code_range
    every = np.arange(least, largest + 1)
    exact = (every - x.zero_point) * (float(x.scale) / float(scale))
    nearest = float(np.abs(exact - np.floor(exact) - 0.5).min())
    if scale != x.scale and nearest < MARGIN:
        raise Refusal(
            f"with scales {x.scale} → {scale} a code lies {nearest:.1e} from a rounding tie; "
            f"engines may disagree (the ratio {float(scale) / float(x.scale):.6g} should be "
            "an odd integer)"
        )
    return x, quantizer


def write_requantization(found: Requantization, layer: str, context: Context) -> Written:
    """Write com.microsoft QLinearAdd with 0, and Clip if needed; only Clip if the scale is kept."""
    (x, quantizer), builder = found, context.builder
    out = byte_codes(quantizer, Clamp(), layer)
    same = out.scale == x.scale
    whole = not quantizer.signed and not quantizer.zero_point
    saturates = not same and whole and x.low >= x.zero_point
    if saturates:
        shift = BYTE_HIGH - out.high
        out = replace(
            out, name=layer, zero_point=out.zero_point + shift, low=out.low + shift, high=BYTE_HIGH
        )
    name = x.name
    if not same or out.zero_point != x.zero_point:
        inputs = [
            name,
            scalar(builder, x.scale),
            byte(builder, x.zero_point),
            builder.constant(np.zeros(1, np.uint8), "nothing"),
            scalar(builder, x.scale),
            byte(builder, 0),
            scalar(builder, out.scale),
            byte(builder, out.zero_point),
        ]
        name = builder.add("QLinearAdd", inputs, out.name, domain=MICROSOFT)
    out = replace(out, name=name)
    codes = out if saturates else clipped(context, out, layer)
    return codes, f"requantized by {_ratio(x, codes)}, codes {codes.low}…{codes.high}"


def write_quantizer(found: Requantization, layer: str, context: Context) -> Written:
    """Write Relu if the dialect has it, Q, DQ."""
    x, quantizer = found
    read = x.name
    if context.dialect.relu_before_requantizing and x.low >= x.zero_point:
        read = context.builder.add("Relu", [read], f"{layer}.relu")
    codes, text = quantized(read, quantizer, Clamp(), layer, context)
    return codes, f"requantized by {_ratio(x, codes)}, {text}"


def _ratio(x: Codes, y: Codes) -> str:
    return f"{float(y.scale) / float(x.scale):.6g}"
