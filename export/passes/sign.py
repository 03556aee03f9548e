"""One-bit activations: y = s where v >= 0, else -s, of a convolution or product v.

With v = grid (acc + b / grid) and an integer acc, v >= 0 where acc + floor(b / grid) >= 0.  So the
bias is that floor, the multiplier is exactly 1, and the accumulator, saturated to a byte of zero
point 128, keeps its sign.  A table maps it to 129 and 127, the codes of 1 and -1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from export.graph_builder import MICROSOFT
from export.passes.convolution import Convolution, convolution_before
from export.passes.kernels import kernel_form
from export.passes.linear import product_before
from export.passes.rule import (
    SIGNED_ZERO_POINT,
    Clamp,
    Codes,
    Context,
    Refusal,
    Written,
    byte,
    int32_bias,
    named,
    scalar,
)
from export.passes.table import looked_up
from export.storage import stored_weights

ONES = (SIGNED_ZERO_POINT - 1, SIGNED_ZERO_POINT + 1)
"""The codes of -1 and 1."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """The parts of BipolarQuant(convolution or product; scale); ``flat``: it is a product."""

    source: Convolution
    scale: np.float32
    flat: bool


def step_of(node: onnx.NodeProto, context: Context) -> np.float32:
    """The scale of a BipolarQuant of activations."""
    scale = context.source.constants.get(node.input[1]) if len(node.input) > 1 else None
    if scale is None or scale.size != 1 or not np.isfinite(scale).all() or not scale.item() > 0:
        raise Refusal("its scale is not one stored number above 0")
    return np.float32(scale.item())


def sign(node: onnx.NodeProto, context: Context) -> Sign:
    """Match the sum before the BipolarQuant ``node``."""
    if not context.source.is_sign(node):
        raise Refusal(f"{named(node)} is not a BipolarQuant", other=True)
    scale, flat = step_of(node, context), False
    try:
        found = convolution_before(node.input[0], context)
    except Refusal as refusal:
        if not refusal.other:
            raise
        found, flat = product_before(node.input[0], context), True
    if found.clamp != Clamp():
        raise Refusal("a Relu or Clip precedes the sign")
    return Sign(source=found, scale=scale, flat=flat)


def write_sign(found: Sign, layer: str, context: Context) -> Written:
    """Write QLinearConv or QGemm with multiplier 1, Cast, Gather."""
    builder, conv, x = context.builder, found.source, found.source.x
    gain, bias = conv.affine.gain, conv.affine.bias
    rows = conv.weights.reshape(len(conv.weights), -1)
    grid = float(x.scale) * conv.scale.astype(np.float64) * np.abs(gain)
    constant = (gain == 0.0) | ~rows.any(axis=1)
    weights = conv.weights * np.where(constant, 0, np.sign(gain)).astype(np.int64).reshape(
        -1, 1, 1, 1
    )
    if weights.max(initial=0) > 127:
        raise Refusal("a weight of -128 under a negative gain has no opposite in int8")
    largest = np.abs(rows).sum(axis=1) * 255.0 + 1.0
    with np.errstate(all="ignore"):
        steps = np.clip(np.floor(bias / np.where(constant, 1.0, grid)), -largest, largest)
    steps = np.where(constant, np.where(bias >= 0.0, 0.0, -1.0), steps)
    whole = int32_bias(steps, np.ones(len(steps)), weights, layer)
    zero_point = byte(builder, SIGNED_ZERO_POINT)
    sums = f"{layer}.sums"
    if found.flat:
        ones = np.ones(len(weights), np.float32)
        inputs = [
            x.name,
            scalar(builder, x.scale),
            byte(builder, x.zero_point),
            stored_weights(
                builder, weights[:, :, 0, 0], conv.weight_bits, f"{layer}.w", context.storage
            ),
            builder.constant(ones, f"{layer}.ws"),
            builder.constant(np.zeros(len(weights), np.int8), f"{layer}.z", shared=False),
            builder.constant(whole, f"{layer}.b"),
            scalar(builder, x.scale),
            zero_point,
        ]
        name = builder.add("QGemm", inputs, sums, domain=MICROSOFT, transB=1)
    else:
        form = kernel_form(context, x, conv.shape, weights, conv.attributes)
        inputs = [
            form.source,
            scalar(builder, x.scale),
            byte(builder, x.zero_point),
            stored_weights(builder, form.weights, conv.weight_bits, f"{layer}.w", context.storage),
            builder.constant(np.ones(len(weights), np.float32), f"{layer}.ws"),
            builder.constant(np.int8(form.zero_point), f"{layer}.z", shared=False),
            scalar(builder, x.scale),
            zero_point,
            builder.constant(whole, f"{layer}.b"),
        ]
        name = builder.add("QLinearConv", inputs, sums, **form.attributes)
    table = np.where(np.arange(256) >= SIGNED_ZERO_POINT, ONES[1], ONES[0]).astype(np.uint8)
    codes, _ = looked_up(name, table, sign_codes(found.scale, layer), layer, context)
    assert codes is not None
    return replace(codes, name=codes.name), f"sign of a sum, {conv.weight_bits}-bit weights"


def sign_codes(scale: np.float32, layer: str) -> Codes:
    """The codes of -scale and scale."""
    return Codes(name=layer, scale=scale, zero_point=SIGNED_ZERO_POINT, low=ONES[0], high=ONES[1])
