"""Write the layers of LiteRT files (``.tflite``) that are no convolution and compute new codes.

**A change of scale** is ADD with a constant 0: LiteRT's kernels for ADD have 20 bits or more for
the ratio of scales, XNNPACK's for QUANTIZE has 8.  With the odd ratios of this project no code is
near a tie, so every kernel gives the same code.

**The mean** of all positions is MEAN.

**Functions** are tables: CAST, ADD of 128, GATHER.  LiteRT's own LOGISTIC, TANH and HARD_SWISH
prescribe scales or round differently; a table gives the codes of the training.

**Logits** are int16: QUANTIZE to int16 (the same codes), FULLY_CONNECTED with int8 weights and an
int64 bias.  The scale is the largest logit that the weights allow, divided by 32767.  So nothing
saturates, nothing is calibrated, and a step is far below the difference between two classes.  int8
logits would tie on images that fake quantization distinguishes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.passes.average_pool import AveragePool
from export.passes.image_codes import CENTRE, ImageCodes
from export.passes.linear import Linear
from export.passes.litert_codes import (
    HIGH,
    LOW,
    builder_of,
    int32,
    out_codes,
    range_in_words,
    tensor,
    written,
)
from export.passes.requantize import Requantization
from export.passes.rule import Clamp, Codes, Context, Refusal, Written, int32_bias
from export.passes.table import Table, entries
from export.passes.two_operands import TwoOperands

LOGIT_HIGH = 32767
IMAGES, LOGITS = "images", "logits"
"""Names of input and output in the file."""


def write_image(found: ImageCodes, layer: str, context: Context) -> Written:
    """Use the int8 input itself: byte - 128, zero point 0."""
    if found.table is not None or found.codes.zero_point != CENTRE:
        raise Refusal(
            f"the image's bytes are not codes of zero point {CENTRE}, and this target "
            "has no table for them"
        )
    _, channels, height, width = context.source.shapes[found.image]
    codes = Codes(name="", scale=found.codes.scale, zero_point=0, low=LOW, high=HIGH)
    name = tensor(context, codes, (1, height, width, channels), IMAGES)
    scale = f"scale {found.codes.scale:.6g}"
    return replace(codes, name=name), f"the image's byte - 128 as int8, zero point 0, {scale}"


# ------------------------------------------------------------------ sums, products, means


def write_two_operands(found: TwoOperands, layer: str, context: Context) -> Written:
    """Write ADD or MUL."""
    names = [codes.name for codes in found.operands]
    shapes = [builder_of(context).shape_of(name) for name in names]
    out = out_codes(found.quantizer, found.clamp)
    shape = np.broadcast_shapes(*shapes)
    codes = written(context, found.operator.upper(), names, out, shape, layer)
    return codes, f"{found.operator.upper()}, {range_in_words(codes)}"


def write_requantization(found: Requantization, layer: str, context: Context) -> Written:
    """Write ADD with 0; nothing if the codes are unchanged."""
    x, quantizer = found
    out = out_codes(quantizer, Clamp())
    codes = _add_nothing(context, x, out, layer)
    ratio = float(codes.scale) / float(x.scale)
    return codes, f"requantized by {ratio:.6g}, {range_in_words(codes)}"


def _add_nothing(context: Context, x: Codes, out: Codes, layer: str) -> Codes:
    builder = builder_of(context)
    stays = (x.scale, x.zero_point) == (out.scale, out.zero_point)
    if stays and out.low <= x.low and x.high <= out.high:
        return x
    nothing = builder.constant(np.zeros(1, np.int8), "nothing", scales=[x.scale])
    return written(context, "ADD", [x.name, nothing], out, builder.shape_of(x.name), layer)


def write_mean(found: AveragePool, layer: str, context: Context) -> Written:
    """Write MEAN over height and width."""
    builder = builder_of(context)
    batch, _, _, channels = builder.shape_of(found.x.name)
    shape = (batch, channels) if found.flat else (batch, 1, 1, channels)
    codes = written(
        context,
        "MEAN",
        [found.x.name, int32(context, [1, 2], "height and width")],
        out_codes(found.quantizer, Clamp()),
        shape,
        layer,
        fuses=False,
        keepDims=not found.flat,
    )
    return codes, f"MEAN, {range_in_words(codes)}"


def write_table(found: Table, layer: str, context: Context) -> Written:
    """Write CAST, ADD of 128, GATHER."""
    builder, x = builder_of(context), found.x
    shape = builder.shape_of(x.name)
    codes = out_codes(found.quantizer, Clamp())
    kinds = {
        "inDataType": builder.enum("TensorType", "INT8"),
        "outDataType": builder.enum("TensorType", "INT32"),
    }
    whole = builder.add("CAST", [x.name], builder.tensor(f"{layer}.cast", shape, "int32"), **kinds)
    index = builder.tensor(f"{layer}.index", shape, "int32")
    builder.add("ADD", [whole, int32(context, [-LOW], "to the first")], index)
    stored = entries(replace(found, x=_as_bytes(x)), _as_bytes(codes)).astype(np.int16) + LOW
    table = builder.constant(
        stored.astype(np.int8), f"{layer}.table", scales=[codes.scale], zero_point=codes.zero_point
    )
    name = builder.add("GATHER", [table, index], tensor(context, codes, shape, layer), axis=0)
    return replace(codes, name=name), (
        f"table of {len(np.unique(stored))} codes, {codes.low}…{codes.high}"
    )


def _as_bytes(codes: Codes) -> Codes:
    return replace(
        codes,
        zero_point=codes.zero_point - LOW,
        low=codes.low - LOW,
        high=codes.high - LOW,
    )


# ------------------------------------------------------------------ logits


def write_linear(found: Linear, layer: str, context: Context) -> Written:
    """Write QUANTIZE to int16, FULLY_CONNECTED."""
    if found.flat:
        raise Refusal("the logits are not the product of a matrix and codes N×K")
    builder, x = builder_of(context), found.x
    shape = builder.shape_of(x.name)
    wide = builder.tensor(f"{layer}.int16", shape, "int16", scales=[x.scale])
    builder.add("QUANTIZE", [x.name], wide)
    bias = int32_bias(found.bias, found.grid, found.weights, layer).astype(np.int64)
    ends = found.weights[..., None] * np.array([x.low - x.zero_point, x.high - x.zero_point])
    largest = np.maximum(ends.max(axis=2).sum(axis=1) + bias, -ends.min(axis=2).sum(axis=1) - bias)
    bound = float((largest * found.grid).max())
    scale = np.nextafter(np.float32(max(bound, 1e-30) / LOGIT_HIGH), np.float32(np.inf))
    inputs = [
        wide,
        builder.constant(found.weights.astype(np.int8), f"{layer}.w", scales=found.scale),
        builder.constant(bias, f"{layer}.b", scales=x.scale * found.scale),
    ]
    outputs = (shape[0], len(found.weights))
    name = builder.tensor(LOGITS, outputs, "int16", scales=[scale])
    builder.add("FULLY_CONNECTED", inputs, name)
    return None, f"FULLY_CONNECTED, {found.weight_bits}-bit weights as int8, int16 logits"
