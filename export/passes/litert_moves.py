"""Write the operators that keep codes, for LiteRT: the channels are last.

An operator that depends on the order C, H, W is written after a TRANSPOSE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from export.passes.layout import Move
from export.passes.litert_codes import (
    HIGH,
    LOW,
    builder_of,
    int32,
    pad,
    pad_spatial,
    spatial,
    tensor,
)
from export.passes.max_pool import MaxPool
from export.passes.moves import CodeMove
from export.passes.rule import Codes, Context, Written

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Permutations that put the channels of four dimensions last, and first again."""


def write_max_pool(found: MaxPool, layer: str, context: Context) -> Written:
    """Write MAX_POOL_2D, and PADV2 before it if needed."""
    (codes, settings), builder = found, builder_of(context)
    height, width = settings["kernel_shape"]
    shape = builder.shape_of(codes.name)
    pads = settings["pads"]
    source = codes.name
    if any(pads):
        source = pad_spatial(context, codes, pads, LOW, f"{layer}.pad")
        shape = builder.shape_of(source)
    sizes = [
        (size - reach) // stride + 1
        for size, reach, stride in zip(
            shape[1:3], (height, width), settings["strides"], strict=True
        )
    ]
    name = tensor(context, codes, (1, *sizes, shape[3]), layer)
    options = {
        **spatial(context, "VALID", settings),
        "filterHeight": height,
        "filterWidth": width,
    }
    builder.add("MAX_POOL_2D", [source], name, **options)
    return replace(codes, name=name), f"MAX_POOL_2D of codes {height}×{width}"


def write_layout(found: Move, layer: str, context: Context) -> Written:
    """Write RESHAPE, TRANSPOSE; nothing for Identity."""
    builder, codes = builder_of(context), found.codes
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
    shape = builder_of(context).shape_of(codes.name)
    if len(shape) != 4 or shape[1] * shape[2] == 1 or shape[3] == 1:
        return codes
    return _transposed(context, codes, FIRST, layer)


def _transposed(context: Context, codes: Codes, order: Sequence[int], layer: str) -> Codes:
    builder = builder_of(context)
    before = builder.shape_of(codes.name)
    name = tensor(context, codes, [before[axis] for axis in order], layer)
    builder.add("TRANSPOSE", [codes.name, int32(context, order, "order")], name)
    return replace(codes, name=name)


def _reshaped(context: Context, codes: Codes, shape: Sequence[int], layer: str) -> Codes:
    builder = builder_of(context)
    wanted = np.array([-1, *shape[1:]], np.int32)
    name = tensor(context, codes, shape, layer)
    inputs = [codes.name, int32(context, wanted, "shape")]
    builder.add("RESHAPE", inputs, name, newShape=wanted)
    return replace(codes, name=name)


def write_code_move(found: CodeMove, layer: str, context: Context) -> Written:
    """Write CONCATENATION, SLICE, PAD or PADV2, RESIZE_NEAREST_NEIGHBOR."""
    builder, first = builder_of(context), found.parts[0]
    shape = list(builder.shape_of(first.name))
    low = min(codes.low for codes in found.parts)
    high = max(codes.high for codes in found.parts)
    stored = list(LAST) if len(shape) == 4 else list(range(len(shape)))
    match found.operator:
        case "Concat":
            axis = stored.index(1)
            shape[axis] = sum(builder.shape_of(codes.name)[axis] for codes in found.parts)
            name = tensor(context, first, shape, layer)
            builder.add("CONCATENATION", [codes.name for codes in found.parts], name, axis=axis)
        case "Slice":
            starts, sizes = [0] * len(shape), [-1, *shape[1:]]
            for start, end, wanted in zip(*(one.tolist() for one in found.constants), strict=True):
                place = stored.index(wanted % len(shape))
                begin, stop, _ = slice(start, end).indices(shape[place])
                starts[place], sizes[place] = begin, stop - begin
            inputs = [first.name, int32(context, starts, "begin"), int32(context, sizes, "size")]
            name = builder.add("SLICE", inputs, tensor(context, first, (1, *sizes[1:]), layer))
        case "Pad":
            amounts = found.constants[0].reshape(2, -1).T[stored]
            border = int(np.rint(found.border / float(first.scale))) + first.zero_point
            border = min(max(border, LOW), HIGH)
            low, high = min(low, border), max(high, border)
            name = pad(context, first, amounts.tolist(), border, layer)
        case _:
            rows, columns = (int(factor) for factor in found.constants[0].tolist()[2:])
            sizes = [shape[1] * rows, shape[2] * columns]
            name = tensor(context, first, (1, *sizes, shape[3]), layer)
            inputs = [first.name, int32(context, sizes, "size")]
            builder.add("RESIZE_NEAREST_NEIGHBOR", inputs, name)
    return replace(first, name=name, low=low, high=high), f"{found.operator} of codes"
