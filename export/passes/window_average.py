"""The average of each window of codes, as a convolution of each channel with ones.

The average is sum (x - z_x) over the n positions of a window, times s_x / (n s_y).  A QLinearConv
with weights of 1 and scale 1/n computes it with one rounding, by a formula that is known bit for
bit.  Padding has the zero point, a value of 0 that is counted (count_include_pad).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from export.graph import attributes_of
from export.passes.qonnx_graph import Quantizer
from export.passes.quantizers import quantized
from export.passes.rule import (
    Clamp,
    Codes,
    Context,
    Refusal,
    Written,
    activation_quantizer,
    byte,
    byte_codes,
    clipped,
    named,
    scalar,
)


@dataclass(frozen=True, kw_only=True)
class WindowAverage:
    """The parts of Quant(AveragePool(codes)); ``channels``: of the codes."""

    x: Codes
    channels: int
    window: dict[str, Any]
    quantizer: Quantizer


def window_average(node: onnx.NodeProto, context: Context) -> WindowAverage:
    """Match the pool before the quantizer ``node``."""
    pool = context.source.producer(node.input[0])
    if pool is None or pool.op_type != "AveragePool":
        raise Refusal(f"{named(pool)} precedes it, not an AveragePool", other=True)
    x, channels, window = window_of(pool, context)
    return WindowAverage(
        x=x, channels=channels, window=window, quantizer=activation_quantizer(node, context)
    )


def window_of(pool: onnx.NodeProto, context: Context) -> tuple[Codes, int, dict[str, Any]]:
    """The codes that an AveragePool reads, their channels, and the attributes of its window."""
    attributes = attributes_of(pool)
    kernel = list(attributes.get("kernel_shape", []))
    pads = list(attributes.get("pads", [0] * 4))
    if len(kernel) != 2 or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise Refusal(f"its kernel {kernel} has not two dimensions, or it has auto_pad")
    if attributes.get("ceil_mode", 0) or set(attributes.get("dilations", [1])) != {1}:
        raise Refusal("ceil_mode and dilations are not supported")
    if any(pads) and not attributes.get("count_include_pad", 0):
        raise Refusal("windows at the border have another divisor; set count_include_pad")
    shape = context.source.shapes.get(pool.input[0], ())
    if len(shape) != 4 or shape[1] < 1:
        raise Refusal(
            f"the file does not state the number of channels of its input ({list(shape)})"
        )
    window = {
        "kernel_shape": kernel,
        "strides": list(attributes.get("strides", [1, 1])),
        "pads": pads,
    }
    return context.codes_of(pool.input[0], "the pool's input"), shape[1], window


def write_integer_average(found: WindowAverage, layer: str, context: Context) -> Written:
    """Write QLinearConv with weights of 1, and Clip if needed."""
    builder, x = context.builder, found.x
    out = byte_codes(found.quantizer, Clamp(), layer)
    height, width = found.window["kernel_shape"]
    ones = np.ones((found.channels, 1, height, width), np.int8)
    inputs = [
        x.name,
        scalar(builder, x.scale),
        byte(builder, x.zero_point),
        builder.constant(ones, f"{layer}.ones", shared=False),
        builder.constant(np.float32(1.0 / (height * width)), f"{layer}.share"),
        builder.constant(np.int8(0), f"{layer}.z", shared=False),
        scalar(builder, out.scale),
        byte(builder, out.zero_point),
    ]
    name = builder.add("QLinearConv", inputs, out.name, group=found.channels, **found.window)
    codes = clipped(context, replace(out, name=name), layer)
    return codes, f"mean of {height}×{width} by QLinearConv, codes {codes.low}…{codes.high}"


def write_average(found: WindowAverage, layer: str, context: Context) -> Written:
    """Write AveragePool of values, Q, DQ."""
    pooled = context.builder.add(
        "AveragePool", [found.x.name], f"{layer}.mean", count_include_pad=1, **found.window
    )
    codes, text = quantized(pooled, found.quantizer, Clamp(), layer, context)
    return codes, f"AveragePool, {text}"
