"""The image's bytes are the first layer's codes.

Quant((u8 - 128) / 64; scale 2^-6, signed 8 bits) has the codes u8 - 128. As uint8 with zero point
128 these are the image's bytes themselves, and the all-integer graph has no node for them; a
standard Q/DQ file dequantizes them. The signed dialect takes them as int8, zero point 0, which is
byte XOR 0x80 on the host, no arithmetic.
"""

from __future__ import annotations

import numpy as np
import onnx

from export.passes.rule import Codes, Context, Refusal, Written

MEAN = np.float32(128.0)
STEP = np.float32(2.0**-6)


def image_codes(node: onnx.NodeProto, context: Context) -> str:
    """Quant(Mul(Sub(images, 128), 1/64)): the name of the images."""
    source = context.source
    scaled = source.producer(node.input[0])
    centred = None if scaled is None else source.producer(scaled.input[0])
    if scaled is None or centred is None or (centred.op_type, scaled.op_type) != ("Sub", "Mul"):
        raise Refusal("it does not quantize (images - 128) / 64")
    mean = source.constants.get(centred.input[1])
    factor = source.constants.get(scaled.input[1])
    if centred.input[0] != source.image or mean is None or factor is None:
        raise Refusal("it does not quantize the graph's input")
    quantizer = source.quantizer(node)
    exact = (
        mean.size == factor.size == quantizer.scale.size == 1
        and mean.item() == MEAN
        and factor.item() == STEP
        and quantizer.step == STEP
        and quantizer.code_range() == (-128, 127)
    )
    if not exact:
        raise Refusal(
            "the image must be normalised as (x - 128) / 64 and quantized to signed 8 bits "
            "with scale 2^-6, so that its bytes are the codes"
        )
    return source.image


def write_bytes(image: str, layer: str, context: Context) -> Written:
    """The uint8 input itself."""
    codes = Codes(name=image, scale=STEP, zero_point=128, low=0, high=255)
    return codes, "the image's bytes, zero point 128, scale 2^-6"


def write_dequantized(image: str, layer: str, context: Context) -> Written:
    """DequantizeLinear of the input."""
    builder, signed = context.builder, context.dialect.signed_only
    zero = np.int8(0) if signed else np.uint8(128)
    parameters = [builder.constant(STEP, "s"), builder.constant(zero, "z")]
    name = builder.add("DequantizeLinear", [image, *parameters], layer)
    low, high = (-128, 127) if signed else (0, 255)
    taken = "byte - 128 as int8, zero point 0" if signed else "bytes, zero point 128"
    codes = Codes(name=name, scale=STEP, zero_point=int(zero), low=low, high=high)
    return codes, f"the image's {taken}, scale 2^-6"
