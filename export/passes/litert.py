"""Write each kind of layer for LiteRT (``.tflite``): int8 codes, the channels last.

**Codes.**  A code k of low … high is stored as k + z in int8, with z = 127 - high, so that int8
itself saturates at the largest code: unsigned 8-bit codes have z = -128, b-bit ones z = 128 - 2^b.
At the lower end, the fused ReLU keeps codes at 0 or above.  Only signed codes narrower than int8
need a separate operator (MAXIMUM).

**Convolutions** have int8 weights with one scale per output channel and an int32 bias, as in the
all-integer graph (:mod:`export.passes.convolution` has the algebra).  Weights narrower than int8
are stored times 2^n, with their scale over 2^n: the values are the same, and in float32 the codes
too.  The fixed-point kernels round each sum times its multiplier twice, first to an integer and
then in a shift.  Sums of 2-bit weights have multipliers near 1 and hardly any shift, so one in a
few codes would be rounded wrongly; larger sums leave a shift.  Padding that is neither SAME nor
VALID is a PAD with the zero point before the convolution.

**A change of scale** is ADD with a constant 0: LiteRT's kernels for ADD have 20 bits or more for
the ratio of scales, XNNPACK's for QUANTIZE has 8.  With the odd ratios of this project no code is
near a tie, so every kernel gives the same code.

**The mean** of all positions is MEAN; that of windows a DEPTHWISE_CONV_2D with weights of 1,
because LiteRT's average pool rounds halves differently and cannot change the scale.

**Functions** are tables: CAST, ADD of 128, GATHER.  LiteRT's own LOGISTIC, TANH and HARD_SWISH
prescribe scales or round differently; a table gives the codes of the training.

**Logits** are int16: QUANTIZE to int16 (the same codes), FULLY_CONNECTED with int8 weights and an
int64 bias.  The scale is the largest logit that the weights allow, divided by 32767.  So nothing
saturates, nothing is calibrated, and a step is far below the difference between two classes.  int8
logits would tie on images that fake quantization distinguishes.

**Layout.**  A tensor of four dimensions is stored N×H×W×C; one of another rank as in the QONNX
file.  An operator that depends on the order C, H, W is written after a TRANSPOSE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.litert_builder import LiteRtBuilder
from export.passes.average_pool import AveragePool
from export.passes.convolution import Convolution, fold
from export.passes.image_codes import CENTRE, ImageCodes
from export.passes.layout import Move
from export.passes.linear import Linear
from export.passes.max_pool import MaxPool
from export.passes.moves import CodeMove
from export.passes.qonnx_graph import Quantizer
from export.passes.requantize import Requantization
from export.passes.rule import (
    Clamp,
    Codes,
    Context,
    LoweringError,
    Refusal,
    Written,
    int32_bias,
)
from export.passes.table import Table, entries
from export.passes.two_operands import TwoOperands
from export.passes.window_average import WindowAverage

LOW, HIGH = -128, 127
LOGIT_HIGH = 32767
IMAGES, LOGITS = "images", "logits"
"""Names of input and output in the file."""

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Permutations that put the channels of four dimensions last, and first again."""


def _out(quantizer: Quantizer, clamp: Clamp) -> Codes:
    """The codes, not named yet, of the quantizer of a layer after a clamp."""
    low, high = clamp.codes(*quantizer.code_range(), quantizer.step)
    if high < 0:
        raise LoweringError(
            f"its codes {low}…{high} are all below 0, so they cannot end at the largest int8 code"
        )
    zero = HIGH - high
    return Codes(name="", scale=quantizer.step, zero_point=zero, low=low + zero, high=HIGH)


def _builder(context: Context) -> LiteRtBuilder:
    assert context.litert is not None
    return context.litert


def _tensor(context: Context, codes: Codes, shape: Sequence[int], name: str) -> str:
    return _builder(context).tensor(
        name, shape, "int8", scales=[codes.scale], zero_point=codes.zero_point
    )


def _int32(context: Context, values: Any, hint: str) -> str:
    return _builder(context).constant(np.asarray(values, np.int32), hint)


def _written(
    context: Context,
    operator: str,
    inputs: Sequence[str],
    out: Codes,
    shape: Sequence[int],
    layer: str,
    *,
    fuses: bool = True,
    **options: Any,
) -> Codes:
    """Write the operator, and enforce the lower bound of the codes ``out``: by int8 itself, a fused
    ReLU if they begin at the value 0 and the operator ``fuses`` it, or a MAXIMUM after it."""
    builder = _builder(context)
    held = out.low == LOW
    if fuses:
        relu = not held and out.low == out.zero_point
        options["fusedActivationFunction"] = builder.enum(
            "ActivationFunctionType", "RELU" if relu else "NONE"
        )
        held |= relu
    name = _tensor(context, out, shape, layer if held else f"{layer}.wide")
    builder.add(operator, inputs, name, **options)
    if not held:
        least = builder.constant(
            np.array([out.low], np.int8),
            f"{layer}.least",
            scales=[out.scale],
            zero_point=out.zero_point,
        )
        name = builder.add("MAXIMUM", [name, least], _tensor(context, out, shape, layer))
    return replace(out, name=name)


def write_image(found: ImageCodes, layer: str, context: Context) -> Written:
    """Use the int8 input itself: byte - 128, zero point 0."""
    if found.table is not None or found.codes.zero_point != CENTRE:
        raise Refusal(
            f"the image's bytes are not codes of zero point {CENTRE}, and this target "
            "has no table for them"
        )
    _, channels, height, width = context.source.shapes[found.image]
    codes = Codes(name="", scale=found.codes.scale, zero_point=0, low=LOW, high=HIGH)
    name = _tensor(context, codes, (1, height, width, channels), IMAGES)
    scale = f"scale {found.codes.scale:.6g}"
    return replace(codes, name=name), f"the image's byte - 128 as int8, zero point 0, {scale}"


# ------------------------------------------------------------------ convolutions


def _padded(
    context: Context, x: Codes, kernel: Sequence[int], attributes: Mapping[str, Any], layer: str
) -> tuple[str, str, tuple[int, int]]:
    """The tensor to read, LiteRT's name of the remaining padding, and the output's sizes.

    ``kernel`` is the size of the dilated kernel; sizes are (height, width).
    """
    builder = _builder(context)
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
    widths = [[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]]
    return _pad(context, x, widths, x.zero_point, f"{layer}.pad"), "VALID", (sizes[0], sizes[1])


def _pad(context: Context, x: Codes, widths: Sequence[Sequence[int]], code: int, layer: str) -> str:
    builder = _builder(context)
    shape = [
        size + sum(width) for size, width in zip(builder.shape_of(x.name), widths, strict=True)
    ]
    inputs = [x.name, _int32(context, widths, "pads")]
    out = _tensor(context, x, shape, layer)
    if code == x.zero_point:
        return builder.add("PAD", inputs, out)
    border = builder.constant(
        np.array([code], np.int8), "border", scales=[x.scale], zero_point=x.zero_point
    )
    return builder.add("PADV2", [*inputs, border], out)


def _spatial(context: Context, padding: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    strides = list(attributes.get("strides", (1, 1)))
    return {
        "padding": _builder(context).enum("Padding", padding),
        "strideH": strides[0],
        "strideW": strides[1],
    }


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
    builder = _builder(context)
    outputs, depth, *kernel = weights.shape
    groups = int(attributes.get("group", 1))
    dilations = list(attributes.get("dilations", (1, 1)))
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    source, padding, sizes = _padded(context, x, reach, attributes, layer)
    options = _spatial(context, padding, attributes)
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
    codes = _written(context, operator, [source, stored, added], out, shape, layer, **options)
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
    out = _out(found.output, found.clamp)
    folded = fold(found, out.scale, layer)
    bias = int32_bias(folded.bias, folded.grid, folded.weights, layer)
    codes, operator = _convolved(
        context, found.x, folded.weights, folded.scale, bias, found.attributes, out, layer
    )
    return codes, (
        f"{operator}, {found.weight_bits}-bit weights as int8, {_range(codes)}{found.flipped}"
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
        _out(found.quantizer, Clamp()),
        layer,
    )
    return codes, f"mean of {height}×{width} by {operator}, {_range(codes)}"


# ------------------------------------------------------------------ sums, products, means


def write_two_operands(found: TwoOperands, layer: str, context: Context) -> Written:
    """Write ADD or MUL."""
    names = [codes.name for codes in found.operands]
    shapes = [_builder(context).shape_of(name) for name in names]
    out = _out(found.quantizer, found.clamp)
    shape = np.broadcast_shapes(*shapes)
    codes = _written(context, found.operator.upper(), names, out, shape, layer)
    return codes, f"{found.operator.upper()}, {_range(codes)}"


def write_requantization(found: Requantization, layer: str, context: Context) -> Written:
    """Write ADD with 0; nothing if the codes are unchanged."""
    x, quantizer = found
    out = _out(quantizer, Clamp())
    codes = _add_nothing(context, x, out, layer)
    return codes, f"requantized by {float(codes.scale) / float(x.scale):.6g}, {_range(codes)}"


def _add_nothing(context: Context, x: Codes, out: Codes, layer: str) -> Codes:
    builder = _builder(context)
    stays = (x.scale, x.zero_point) == (out.scale, out.zero_point)
    if stays and out.low <= x.low and x.high <= out.high:
        return x
    nothing = builder.constant(np.zeros(1, np.int8), "nothing", scales=[x.scale])
    return _written(context, "ADD", [x.name, nothing], out, builder.shape_of(x.name), layer)


def write_mean(found: AveragePool, layer: str, context: Context) -> Written:
    """Write MEAN over height and width."""
    builder = _builder(context)
    batch, _, _, channels = builder.shape_of(found.x.name)
    shape = (batch, channels) if found.flat else (batch, 1, 1, channels)
    codes = _written(
        context,
        "MEAN",
        [found.x.name, _int32(context, [1, 2], "height and width")],
        _out(found.quantizer, Clamp()),
        shape,
        layer,
        fuses=False,
        keepDims=not found.flat,
    )
    return codes, f"MEAN, {_range(codes)}"


def write_table(found: Table, layer: str, context: Context) -> Written:
    """Write CAST, ADD of 128, GATHER."""
    builder, x = _builder(context), found.x
    shape = builder.shape_of(x.name)
    codes = _out(found.quantizer, Clamp())
    kinds = {
        "inDataType": builder.enum("TensorType", "INT8"),
        "outDataType": builder.enum("TensorType", "INT32"),
    }
    whole = builder.add("CAST", [x.name], builder.tensor(f"{layer}.cast", shape, "int32"), **kinds)
    index = builder.tensor(f"{layer}.index", shape, "int32")
    builder.add("ADD", [whole, _int32(context, [-LOW], "to the first")], index)
    stored = entries(replace(found, x=_as_bytes(x)), _as_bytes(codes)).astype(np.int16) + LOW
    table = builder.constant(
        stored.astype(np.int8), f"{layer}.table", scales=[codes.scale], zero_point=codes.zero_point
    )
    name = builder.add("GATHER", [table, index], _tensor(context, codes, shape, layer), axis=0)
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


# ------------------------------------------------------------------ operators that keep codes


def write_max_pool(found: MaxPool, layer: str, context: Context) -> Written:
    """Write MAX_POOL_2D, and PADV2 before it if needed."""
    (codes, settings), builder = found, _builder(context)
    height, width = settings["kernel_shape"]
    shape = builder.shape_of(codes.name)
    pads = settings["pads"]
    source, padding, sizes = codes.name, "VALID", [0, 0]
    if any(pads):
        widths = [[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]]
        source = _pad(context, codes, widths, LOW, f"{layer}.pad")
        shape = builder.shape_of(source)
    sizes = [
        (size - reach) // stride + 1
        for size, reach, stride in zip(
            shape[1:3], (height, width), settings["strides"], strict=True
        )
    ]
    name = _tensor(context, codes, (1, *sizes, shape[3]), layer)
    options = {
        **_spatial(context, padding, settings),
        "filterHeight": height,
        "filterWidth": width,
    }
    builder.add("MAX_POOL_2D", [source], name, **options)
    return replace(codes, name=name), f"MAX_POOL_2D of codes {height}×{width}"


def write_layout(found: Move, layer: str, context: Context) -> Written:
    """Write RESHAPE, TRANSPOSE; nothing for Identity."""
    builder, codes = _builder(context), found.codes
    shape = builder.shape_of(codes.name)
    match found.operator:
        case "Identity":
            return codes, ""
        case "Transpose":
            permutation = list(found.attributes["perm"])
            if len(shape) == 4:
                stored = list(LAST)
                permutation = [stored.index(permutation[axis]) for axis in LAST]
            moved = _transposed(context, codes, permutation, layer)
        case _:
            first = _channels_first(context, codes, f"{layer}.first")
            after = found.shape or (0, math.prod(shape[1:]))
            moved = _reshaped(context, first, (1, *after[1:]), layer)
            if len(after) == 4:
                moved = _transposed(context, moved, LAST, f"{layer}.last")
    return moved, f"{found.operator} of codes"


def _channels_first(context: Context, codes: Codes, layer: str) -> Codes:
    shape = _builder(context).shape_of(codes.name)
    if len(shape) != 4 or shape[1] * shape[2] == 1 or shape[3] == 1:
        return codes
    return _transposed(context, codes, FIRST, layer)


def _transposed(context: Context, codes: Codes, order: Sequence[int], layer: str) -> Codes:
    builder = _builder(context)
    before = builder.shape_of(codes.name)
    name = _tensor(context, codes, [before[axis] for axis in order], layer)
    builder.add("TRANSPOSE", [codes.name, _int32(context, order, "order")], name)
    return replace(codes, name=name)


def _reshaped(context: Context, codes: Codes, shape: Sequence[int], layer: str) -> Codes:
    builder = _builder(context)
    wanted = np.array([-1, *shape[1:]], np.int32)
    name = _tensor(context, codes, shape, layer)
    inputs = [codes.name, _int32(context, wanted, "shape")]
    builder.add("RESHAPE", inputs, name, newShape=wanted)
    return replace(codes, name=name)


def write_code_move(found: CodeMove, layer: str, context: Context) -> Written:
    """Write CONCATENATION, SLICE, PAD or PADV2, RESIZE_NEAREST_NEIGHBOR."""
    builder, first = _builder(context), found.parts[0]
    shape = list(builder.shape_of(first.name))
    low = min(codes.low for codes in found.parts)
    high = max(codes.high for codes in found.parts)
    stored = list(LAST) if len(shape) == 4 else list(range(len(shape)))
    match found.operator:
        case "Concat":
            axis = stored.index(1)
            shape[axis] = sum(builder.shape_of(codes.name)[axis] for codes in found.parts)
            name = _tensor(context, first, shape, layer)
            builder.add("CONCATENATION", [codes.name for codes in found.parts], name, axis=axis)
        case "Slice":
            starts, sizes = [0] * len(shape), [-1, *shape[1:]]
            for start, end, wanted in zip(*(one.tolist() for one in found.constants), strict=True):
                place = stored.index(wanted % len(shape))
                begin, stop, _ = slice(start, end).indices(shape[place])
                starts[place], sizes[place] = begin, stop - begin
            inputs = [first.name, _int32(context, starts, "begin"), _int32(context, sizes, "size")]
            name = builder.add("SLICE", inputs, _tensor(context, first, (1, *sizes[1:]), layer))
        case "Pad":
            amounts = found.constants[0].reshape(2, -1).T[stored]
            border = int(np.rint(found.border / float(first.scale))) + first.zero_point
            border = min(max(border, LOW), HIGH)
            low, high = min(low, border), max(high, border)
            name = _pad(context, first, amounts.tolist(), border, layer)
        case _:
            rows, columns = (int(factor) for factor in found.constants[0].tolist()[2:])
            sizes = [shape[1] * rows, shape[2] * columns]
            name = _tensor(context, first, (1, *sizes, shape[3]), layer)
            inputs = [first.name, _int32(context, sizes, "size")]
            builder.add("RESIZE_NEAREST_NEIGHBOR", inputs, name)
    return replace(first, name=name, low=low, high=high), f"{found.operator} of codes"


# ------------------------------------------------------------------ logits


def write_linear(found: Linear, layer: str, context: Context) -> Written:
    """Write QUANTIZE to int16, FULLY_CONNECTED."""
    if found.flat:
        raise Refusal("the logits are not the product of a matrix and codes N×K")
    builder, x = _builder(context), found.x
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


def _range(codes: Codes) -> str:
    return f"codes {codes.low}…{codes.high} (zero point {codes.zero_point})"
