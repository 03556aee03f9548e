"""Requantization of codes to a coarser scale, in one vectorised integer operator.

y = round(x * s_x / s_y) is computed by QLinearAdd with a constant 0 as second summand.  The clip to
b bits costs nothing for unsigned codes: they are stored with zero point z = 256 - 2^b, so uint8
itself saturates at 255 = z + (2^b - 1), and they cannot fall below z because the stream is not
negative.  The next convolution reads that zero point, and pads with it.  Signed codes, and a clip
without a change of scale, take a uint8 Clip.

A single-input QLinearConcat does the same by table lookup at a multiple of the price
(results/benchmarks/requantization.json), a DequantizeLinear → QuantizeLinear pair through float32
memory.

Engines evaluate that formula in different orders in float32, with or without fused multiply-add.
They can only disagree where x * s_x / s_y lies within rounding error of a half; so all 256 codes
are looked at here, and scales that bring one nearer than :data:`MARGIN` to a half are refused.
This project's networks have s_y = odd * s_x, which keeps every code 1 / (2 odd) away from it.
"""

from __future__ import annotations

import numpy as np
import onnx

from export.graph_builder import MICROSOFT
from export.passes.rule import (
    BYTE_HIGH,
    Codes,
    Context,
    Emit,
    Refusal,
    Rule,
    activation_quantizer,
    byte,
    clip_codes,
    code_bounds,
    scalar,
)

MARGIN = 1e-3
"""Least distance from a half, in output codes. Float32 errors are below 256 * 2^-22 = 6e-5."""


class Requantize(Rule):
    """Quant(codes) → com.microsoft QLinearAdd with 0, and Clip; only Clip if the scale stays."""

    name = "requantize"

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match a quantizer of codes; see :meth:`Rule.match`."""
        x = context.codes.get(node.input[0])
        if x is None:
            return Refusal(f"its input {node.input[0]!r} has no integer codes")
        quantizer = activation_quantizer(node, context)
        if isinstance(quantizer, Refusal):
            return quantizer
        scale = np.float32(quantizer.scale.item())
        same = scale == x.scale
        exact = (np.arange(256) - x.zero_point) * (float(x.scale) / float(scale))
        nearest = float(np.abs(exact - np.floor(exact) - 0.5).min())
        if not same and nearest < MARGIN:
            return Refusal(
                f"with scales {x.scale} → {scale} a code lies {nearest:.1e} from a rounding tie; "
                f"engines may disagree (the ratio {float(scale) / float(x.scale):.6g} should be "
                "an odd integer)"
            )
        layer = node.output[0]
        source_codes = x

        def emit() -> None:
            builder = context.builder
            zero_point, low, high = code_bounds(quantizer)
            never_negative = source_codes.low >= source_codes.zero_point
            shifted = not same and not quantizer.signed and never_negative
            if shifted:
                shift = BYTE_HIGH - high
                zero_point, low, high = zero_point + shift, low + shift, BYTE_HIGH
            clipped = not shifted and (low > 0 or high < BYTE_HIGH)
            name = source_codes.name
            if not same or zero_point != source_codes.zero_point:
                name = builder.add(
                    "QLinearAdd",
                    [
                        name,
                        scalar(builder, source_codes.scale),
                        byte(builder, source_codes.zero_point),
                        builder.constant(np.zeros(1, np.uint8), "nothing"),
                        scalar(builder, source_codes.scale),
                        byte(builder, 0),
                        scalar(builder, scale),
                        byte(builder, zero_point),
                    ],
                    f"{layer}.wide" if clipped else layer,
                    domain=MICROSOFT,
                )
            codes = Codes(name=name, scale=scale, zero_point=zero_point, low=low, high=high)
            context.codes[layer] = clip_codes(context, name, codes, layer) if clipped else codes
            ratio = float(scale) / float(source_codes.scale)
            context.note(self, layer, f"requantized by {ratio:.6g}, codes {low}…{high}")

        return emit
