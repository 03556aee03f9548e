"""The image's bytes are the first layer's codes, here too.

Quant((u8 - 128) / 64; scale 2^-6, signed 8 bits) has the codes u8 - 128. Signed: the file takes
them as int8, zero point 0, which is byte XOR 0x80 on the host, no arithmetic. Standard: the file
takes the bytes as uint8 with zero point 128.
"""

from __future__ import annotations

import numpy as np
import onnx

from export.passes.image_codes import STEP, image_codes_refusal
from export.passes.qdq.dialect import Dialect
from export.passes.rule import Codes, Context, Emit, Refusal, Rule


class QdqImage(Rule):
    """Quant(Mul(Sub(images, 128), 1/64)) → DequantizeLinear of the input."""

    name = "image codes"

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match the normalised image before a quantizer; see :meth:`Rule.match`."""
        refusal = image_codes_refusal(node, context)
        if refusal is not None:
            return refusal
        layer = node.output[0]

        def emit() -> None:
            builder = context.builder
            signed = self.dialect.signed_only
            zero = np.int8(0) if signed else np.uint8(128)
            parameters = [builder.constant(STEP, "s"), builder.constant(zero, "z")]
            name = builder.add("DequantizeLinear", [context.source.image, *parameters], layer)
            low, high = (-128, 127) if signed else (0, 255)
            context.codes[layer] = Codes(
                name=name, scale=STEP, zero_point=int(zero), low=low, high=high
            )
            taken = "byte - 128 as int8, zero point 0" if signed else "bytes, zero point 128"
            context.note(self, layer, f"the image's {taken}, scale 2^-6")

        return emit
