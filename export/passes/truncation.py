"""``Trunc``: the mean of a window as its sum without the lowest bits, as in FINN's hardware.

The sum of a window of codes is an integer I; Trunc gives floor(I / N) with N a power of two.  A
convolution of each channel with ones computes it with one rounding: floor(I / N) =
rint((2 I - (N - 1)) / 2 N), whose numerator is odd, so there is no tie.  The mode ROUND is
rint(I / N) itself.  The scales of that QLinearConv are 1 and powers of two, so its multiplier is
exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from export.graph import attributes_of
from export.passes.rule import (
    Codes,
    Context,
    Refusal,
    Written,
    byte,
    clipped,
    named,
    scalar,
)
from export.passes.weighted_sum import affine_before
from export.passes.window_average import window_of

POOLS = ("AveragePool", "GlobalAveragePool")


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """The parts of Trunc(sum over a window of codes).

    Attributes:
        x: the codes.
        channels: of the codes.
        window: attributes of the window.
        divisor: N.
        floor: whether it rounds down, not to the nearest.
        scale: of the result.
        code_range: least and largest result.
    """

    x: Codes
    channels: int
    window: dict[str, Any]
    divisor: int
    floor: bool
    scale: np.float32
    code_range: tuple[int, int]


def truncation(node: onnx.NodeProto, context: Context) -> Truncation:
    """Match the window before the Trunc ``node``."""
    source = context.source
    if node.op_type != "Trunc":
        raise Refusal(f"{named(node)} is not a Trunc", other=True)
    values = [source.constants.get(name) for name in node.input[1:]]
    if len(values) not in (4, 5) or any(one is None or one.size != 1 for one in values):
        raise Refusal("its scale, zero point and bit-widths are not single stored numbers")
    numbers = [float(one.item()) for one in values if one is not None]
    scale, zero_point = numbers[:2]
    if zero_point != 0 or not scale > 0:
        raise Refusal(f"its zero point is {zero_point:g}, not 0")
    if len(numbers) == 4:
        shift, out_scale = numbers[2] - numbers[3], scale
    else:
        out_scale = numbers[3]
        shift = float(np.rint(math.log2(out_scale / scale))) if out_scale > 0 else -1.0
    if shift != int(shift) or not 0 <= shift <= 16:
        raise Refusal(f"it drops {shift:g} bits; 0 to 16 are supported")
    attributes = attributes_of(node)
    mode = attributes.get("rounding_mode", b"FLOOR").decode().upper()
    if mode not in ("FLOOR", "ROUND", "HALF_EVEN"):
        raise Refusal(f"unknown rounding mode {mode}; known: FLOOR, ROUND, HALF_EVEN")
    pool, tensor, affine, clamp = affine_before(node.input[0], context, POOLS)
    if pool is not None and pool.op_type not in POOLS:
        raise Refusal(f"{named(pool)} precedes it, not an average pool of codes")
    if (
        len(affine.gain) != 1
        or affine.bias.any()
        or clamp.low != -math.inf
        or clamp.high != math.inf
    ):
        raise Refusal("it does not truncate the sum of a window")
    if pool is None:
        shape = source.shapes.get(tensor, ())
        window: dict[str, Any] = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4}
        x, channels = context.codes[tensor], shape[1] if len(shape) == 4 else 0
    elif pool.op_type == "GlobalAveragePool":
        shape = source.shapes.get(pool.input[0], ())
        window = {"kernel_shape": list(shape[2:]), "strides": [1, 1], "pads": [0] * 4}
        x, channels = context.codes_of(pool.input[0], "the pool's input"), shape[1]
    else:
        x, channels, window = window_of(pool, context)
    positions = math.prod(window["kernel_shape"])
    if channels < 1:
        raise Refusal("the tensor that it truncates has no channels")
    ratio = float(x.scale) * float(affine.gain[0]) / (positions * scale)
    if not abs(ratio - 1.0) < 1e-4:
        raise Refusal(f"its sums are {ratio:.6g} codes a step; expected 1")
    divisor = 2 ** int(shift)
    ends = [positions * (end - x.zero_point) / divisor for end in (x.low, x.high)]
    low, high = math.floor(ends[0]), math.floor(ends[1])
    if len(numbers) == 5:
        bits, signed = int(numbers[4]), bool(attributes.get("signed", 1))
        narrow = bool(attributes.get("narrow", 0))
        bounds = (
            (-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1)
            if signed
            else (0, 2**bits - 1 - narrow)
        )
        low, high = max(low, bounds[0]), min(high, bounds[1])
    if high - low > 255 or positions * 2 > 2**16:
        raise Refusal(f"it gives codes {low}…{high}, more than a byte holds")
    return Truncation(
        x=x,
        channels=channels,
        window=window,
        divisor=divisor,
        floor=mode == "FLOOR",
        scale=np.float32(out_scale),
        code_range=(low, high),
    )


def write_truncation(found: Truncation, layer: str, context: Context) -> Written:
    """Write QLinearConv, and Clip if needed."""
    builder, x, (low, high) = context.builder, found.x, found.code_range
    zero_point = max(0, -low)
    factor = 2 if found.floor else 1
    bias = -(found.divisor - 1) if found.floor else 0
    shape = (found.channels, 1, *found.window["kernel_shape"])
    one = scalar(builder, np.float32(1.0))
    inputs = [
        x.name,
        one,
        byte(builder, x.zero_point),
        builder.constant(np.full(shape, factor, np.int8), f"{layer}.ones", shared=False),
        builder.constant(np.float32(1.0 / (factor * found.divisor)), f"{layer}.share"),
        builder.constant(np.int8(0), f"{layer}.z", shared=False),
        one,
        byte(builder, zero_point),
        builder.constant(np.full(found.channels, bias, np.int32), f"{layer}.b"),
    ]
    ends = (low + zero_point, high + zero_point)
    wide = Codes(
        name=f"{layer}.wide", scale=found.scale, zero_point=zero_point, low=ends[0], high=ends[1]
    )
    name = builder.add("QLinearConv", inputs, f"{layer}.wide", group=found.channels, **found.window)
    codes = clipped(context, Codes(**{**vars(wide), "name": name}), layer)
    return codes, f"sum of a window / {found.divisor}, codes {codes.low}…{codes.high}"
