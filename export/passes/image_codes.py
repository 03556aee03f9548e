"""The first layer's codes: the image's bytes, or a table lookup of them.

The operators between the image and its first quantizer work on each number separately, so the codes
of a channel are a function of the byte: 256 numbers, computed in float32 in the file's own order
(:mod:`export.canonical.image`).

If the codes are the bytes minus an integer z in 0 … 255, as in Quant((u8 - 128) / 64; scale 2^-6,
signed 8 bits), the bytes themselves are codes of zero point z.  The all-integer graph then has no
node for them; a standard Q/DQ file dequantizes them. The signed dialect takes them as int8
byte - 128, which is byte XOR 0x80 on the host.

Otherwise the all-integer graph looks the codes up, in one table or, if they differ, in one for each
channel.  A Q/DQ file has no table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from export.canonical.image import image_function
from export.passes.rule import (
    Clamp,
    Codes,
    Context,
    Refusal,
    Written,
    activation_quantizer,
    byte_codes,
)
from export.passes.sign import ONES, sign_codes, step_of
from export.passes.table import looked_up

CENTRE = 128
MOST_CLIPPED = 128
"""Largest number of the 256 bytes that may lie outside the quantizer's range."""

SAME = 250
"""If at least this many bytes have the same code, the file expects another form of image."""

CURE = (
    "a byte is taken as the number 0…255; if the file expects (byte / 255 - mean) / std, give "
    "both (--mean, --std; 0 and 1 for an image of 0…1)"
)


@dataclass(frozen=True, kw_only=True)
class ImageCodes:
    """The parts of Quant(function of each number of the image).

    Attributes:
        image: name of the images.
        codes: the bytes, if they are the codes; else the result of the table, not named yet.
        table: uint8 C×256, of each channel; None if the bytes are the codes.
    """

    image: str
    codes: Codes
    table: NDArray[np.uint8] | None


def image_codes(node: onnx.NodeProto, context: Context) -> ImageCodes:
    """Match the operators between the image and the quantizer ``node``."""
    source = context.source
    channels = source.shapes[source.image][1]
    values = source.form.bytes(channels)
    x = image_function(node.input[0], source, source.image, values)
    if x is None:
        raise Refusal("it does not quantize a function of the image", other=True)
    x = x[0, :, :, 0]
    if source.is_sign(node):
        scale = step_of(node, context)
        table = np.where(x >= 0, ONES[1], ONES[0]).astype(np.uint8)
        out = sign_codes(scale, "")
        clipped = 0
    else:
        quantizer = activation_quantizer(node, context)
        low, high = quantizer.code_range()
        with np.errstate(all="ignore"):
            rounded = np.rint(x / quantizer.step + np.float32(quantizer.zero_point))
        rounded = np.nan_to_num(rounded) - quantizer.zero_point
        clipped = int(((rounded < low) | (rounded > high)).sum(axis=1).max())
        codes = np.clip(rounded, low, high)
        shift = np.arange(256) - codes
        point = int(shift[0, 0])
        if not (shift - point).any() and 0 <= point <= 255:
            found = Codes(
                name=source.image, scale=quantizer.step, zero_point=point, low=0, high=255
            )
            return ImageCodes(image=source.image, codes=found, table=None)
        out = byte_codes(quantizer, Clamp(), "")
        table = (codes + out.zero_point).astype(np.uint8)
    largest = max(np.unique(row, return_counts=True)[1].max() for row in table)
    if clipped > MOST_CLIPPED or largest >= SAME:
        raise Refusal(
            f"the image's quantizer gives the same code to {largest} of the 256 bytes and clips "
            f"{clipped}; {CURE}"
        )
    return ImageCodes(image=source.image, codes=out, table=table)


def write_bytes(found: ImageCodes, layer: str, context: Context) -> Written:
    """Use the uint8 input itself, or write tables of it."""
    out = found.codes
    if found.table is None:
        scale = "2^-6" if out.scale == 2.0**-6 else f"{out.scale:.6g}"
        return out, f"the image's bytes, zero point {out.zero_point}, scale {scale}"
    if not bool((found.table != found.table[:1]).any()):
        return looked_up(found.image, found.table[0], out, layer, context)
    builder, parts = context.builder, []
    axis = builder.constant(np.array([1], np.int64), "axes")
    for channel, table in enumerate(found.table):
        ends = [builder.constant(np.array([channel + i], np.int64), "end") for i in (0, 1)]
        name = f"{layer}.channel{channel}"
        part = builder.add("Slice", [found.image, *ends, axis], f"{name}.bytes")
        codes, _ = looked_up(part, table, out, name, context)
        assert codes is not None
        parts.append(codes.name)
    name = builder.add("Concat", parts, layer, axis=1)
    named = Codes(**{**vars(out), "name": name})
    return named, f"a table for each of {len(parts)} channels of the image's bytes"


def write_dequantized(found: ImageCodes, layer: str, context: Context) -> Written:
    """Write DequantizeLinear of the input."""
    builder, signed, codes = context.builder, context.dialect.signed_only, found.codes
    if found.table is not None or (signed and codes.zero_point != CENTRE):
        means = f"the mean {CENTRE} / 255" if signed else "the mean a whole number / 255"
        raise Refusal(
            f"the image's bytes are not codes of zero point {CENTRE if signed else '0…255'}, and "
            "only the target onnxruntime has a table for them; lower to that target, or quantize "
            "the image in steps of 1 / (255 std), with one mean and std for all channels, "
            f"{means}"
        )
    zero = np.int8(0) if signed else np.uint8(codes.zero_point)
    parameters = [builder.constant(codes.scale, "s"), builder.constant(zero, "z")]
    name = builder.add("DequantizeLinear", [found.image, *parameters], layer)
    low, high = (-128, 127) if signed else (0, 255)
    taken = "byte - 128 as int8, zero point 0" if signed else f"bytes, zero point {zero}"
    scale = "2^-6" if codes.scale == 2.0**-6 else f"{codes.scale:.6g}"
    made = Codes(name=name, scale=codes.scale, zero_point=int(zero), low=low, high=high)
    return made, f"the image's {taken}, scale {scale}"
