"""Write convolutions, and the means of windows, for LiteRT.

A convolution has int8 weights with one scale per output channel and an int32 bias, as in the
all-integer graph (:mod:`export.passes.convolution` has the algebra).  Weights narrower than int8
are stored times 2^n, with their scale over 2^n: the values are the same, and in float32 the codes
too.  The fixed-point kernels round each sum times its multiplier twice, first to an integer and
then in a shift.  Sums of 2-bit weights have multipliers near 1 and hardly any shift, so one in a
few codes would be rounded wrongly; larger sums leave a shift.  Padding that is neither SAME nor
VALID is a PAD with the zero point before the convolution.

The mean of windows is a DEPTHWISE_CONV_2D with weights of 1, because LiteRT's average pool rounds
halves differently and cannot change the scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.passes.convolution import Convolution, fold
from export.passes.litert_codes import (
    HIGH,
    builder_of,
    out_codes,
    pad_spatial,
    range_in_words,
    spatial,
    written,
)
from export.passes.rule import Clamp, Codes, Context, LoweringError, Written, int32_bias
from export.passes.window_average import WindowAverage


def _padded(
    context: Context, x: Codes, kernel: Sequence[int], attributes: Mapping[str, Any], layer: str
) -> tuple[str, str, tuple[int, int]]:
    """The tensor to read, LiteRT's name of the remaining padding, and the output's sizes.

    ``kernel`` is the size of the dilated kernel; sizes are (height, width).
    """
    builder = builder_of(context)
    shape = builder.shape_of(x.name)
    strides = list(attributes.get("strides", (1, 1)))
    pads = list(attributes.get("pads", (0, 0, 0, 0)))
    sizes = []
    same = True
    for axis in (0, 1):
        size = shape[1 + axis]
        before, after = pads[axis], pads[2 + axis]
        sizes.append((size + before + after - kernel[axis]) // strides[axis] + 1)
        wanted = -(-size // strides[axis])
        total = max((wanted - 1) * strides[axis] + kernel[axis] - size, 0)
        same &= (before, after) == (total // 2, total - total // 2) and sizes[-1] == wanted
    if min(sizes) < 1:
        raise LoweringError(f"{layer}: a kernel of {list(kernel)} is larger than its padded input")
    if not any(pads):
        return x.name, "VALID", (sizes[0], sizes[1])
    if same:
        return x.name, "SAME", (sizes[0], sizes[1])
    source = pad_spatial(context, x, pads, x.zero_point, f"{layer}.pad")
    return source, "VALID", (sizes[0], sizes[1])


def _convolved(
    context: Context,
    x: Codes,
    weights: NDArray[np.int64],
    scale: NDArray[np.float32],
    bias: NDArray[np.int32],
    attributes: Mapping[str, Any],
    out: Codes,
    layer: str,
) -> tuple[Codes, str]:
    """Write CONV_2D or DEPTHWISE_CONV_2D of weights O×(C/groups)×kh×kw."""
    builder = builder_of(context)
    outputs, depth, *kernel = weights.shape
    groups = int(attributes.get("group", 1))
    dilations = list(attributes.get("dilations", (1, 1)))
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    source, padding, sizes = _padded(context, x, reach, attributes, layer)
    options = spatial(context, padding, attributes)
    options["dilationHFactor"], options["dilationWFactor"] = dilations
    depthwise = groups > 1 and depth == 1
    axis = 0
    order = weights.transpose(0, 2, 3, 1)
    if depthwise:
        axis, order = 3, weights.transpose(1, 2, 3, 0)
        options["depthMultiplier"] = outputs // groups
    factor = _widening(weights, bias)
    scale = (scale / np.float32(factor)).astype(np.float32)
    stored = builder.constant(
        np.ascontiguousarray(order * factor).astype(np.int8), f"{layer}.w", scales=scale, axis=axis
    )
    added = builder.constant((bias * factor).astype(np.int32), f"{layer}.b", scales=x.scale * scale)
    operator = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    shape = (1, *sizes, outputs)
    codes = written(context, operator, [source, stored, added], out, shape, layer, **options)
    return codes, operator


def _widening(weights: NDArray[np.int64], bias: NDArray[np.int32]) -> int:
    """The largest power of two that keeps the weights in int8 and their sums with bias in int32."""
    largest = int(np.abs(weights).max(initial=1))
    sums = np.abs(weights).reshape(len(weights), -1).sum(axis=1) * 255
    most = int((sums + np.abs(bias.astype(np.int64))).max())
    factor = 1
    while 2 * factor * largest <= HIGH and 2 * factor * most < 2**31:
        factor *= 2
    return factor


def write_convolution(found: Convolution, layer: str, context: Context) -> Written:
    """Write CONV_2D or DEPTHWISE_CONV_2D, and PAD before it if needed."""
    out = out_codes(found.output, found.clamp)
    folded = fold(found, out.scale, layer)
    bias = int32_bias(folded.bias, folded.grid, folded.weights, layer)
    codes, operator = _convolved(
        context, found.x, folded.weights, folded.scale, bias, found.attributes, out, layer
    )
    return codes, (
        f"{operator}, {found.weight_bits}-bit weights as int8, {range_in_words(codes)}"
        f"{found.flipped}"
    )


def write_average(found: WindowAverage, layer: str, context: Context) -> Written:
    """Write DEPTHWISE_CONV_2D with weights of 1."""
    height, width = found.window["kernel_shape"]
    ones = np.ones((found.channels, 1, height, width), np.int64)
    scale = np.full(found.channels, 1.0 / (height * width), np.float32)
    attributes = {**found.window, "group": found.channels}
    if found.channels == 1:
        attributes["group"] = 1
    codes, operator = _convolved(
        context,
        found.x,
        ones,
        scale,
        np.zeros(found.channels, np.int32),
        attributes,
        out_codes(found.quantizer, Clamp()),
        layer,
    )
    return codes, f"mean of {height}×{width} by {operator}, {range_in_words(codes)}"
