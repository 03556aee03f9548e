"""The image's bytes are the first layer's codes.

Quant((u8 - 128) / 64; scale 2^-6, signed 8 bits) has the codes u8 - 128; as uint8 with zero point
128 these are the image's bytes themselves, and no node is left.
"""

from __future__ import annotations

import numpy as np
import onnx

from export.passes.rule import Codes, Context, Emit, Refusal, Rule

MEAN = np.float32(128.0)
STEP = np.float32(2.0**-6)


def image_codes_refusal(node: onnx.NodeProto, context: Context) -> Refusal | None:
    """Why the quantizer ``node`` does not give the image's bytes as codes; None where it does."""
    source = context.source
    scaled = source.producer(node.input[0])
    centred = None if scaled is None else source.producer(scaled.input[0])
    if scaled is None or centred is None or (centred.op_type, scaled.op_type) != ("Sub", "Mul"):
        return Refusal("it does not quantize (images - 128) / 64")
    mean = source.constants.get(centred.input[1])
    factor = source.constants.get(scaled.input[1])
    if centred.input[0] != source.image or mean is None or factor is None:
        return Refusal("it does not quantize the graph's input")
    quantizer = source.quantizer(node)
    exact = (
        mean.size == factor.size == quantizer.scale.size == 1
        and mean.item() == MEAN
        and factor.item() == STEP
        and quantizer.scale.item() == STEP
        and quantizer.signed
        and quantizer.bits == 8
        and not quantizer.narrow
    )
    if not exact:
        return Refusal(
            "the image must be normalised as (x - 128) / 64 and quantized to signed 8 bits "
            "with scale 2^-6, so that its bytes are the codes"
        )
    return None


class ImageCodes(Rule):
    """Quant(Mul(Sub(images, 128), 1/64)) → the uint8 input."""

    name = "image codes"

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match the normalised image before a quantizer; see :meth:`Rule.match`."""
        refusal = image_codes_refusal(node, context)
        if refusal is not None:
            return refusal
        image = context.source.image

        def emit() -> None:
            context.codes[node.output[0]] = Codes(
                name=image, scale=STEP, zero_point=128, low=0, high=255
            )
            context.note(self, node.output[0], "the image's bytes, zero point 128, scale 2^-6")

        return emit
