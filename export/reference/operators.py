"""Turn one ONNX node into the numpy function that computes it, and check everything in it once.

An operator, attribute, type or layout that the reference does not define is refused with the
node's name and never ignored, because a reference that guesses proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import node_label
from export.reference.arithmetic import (
    Codes,
    Convolution,
    Dense,
    add_table,
    global_average_pool,
    max_pool,
    mul_table,
    padded,
)
from export.reference.errors import UnsupportedGraph
from export.reference.limits import require_room
from export.reference.operands import Constants, Function, Operands

Prepared = tuple[tuple[str, ...], Function]
"""Names of the tensors that the function reads, in argument order, and the function."""

MICROSOFT = "com.microsoft"
ALL_CODES = np.arange(256)
PAIRS = 256 * 256


def prepare(node: onnx.NodeProto, constants: Constants) -> Prepared:
    """Check a node and return the function that computes it.

    Raises:
        UnsupportedGraph: names the node, what it has and what the reference defines.
        NotReproducible: the result of a ``QLinearAdd`` depends on the engine's rounding.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    builder = _BUILDERS.get((domain, node.op_type))
    if builder is None:
        raise UnsupportedGraph(
            f"node {node_label(node)} of domain {domain!r} has no integer reference; supported: "
            f"{', '.join(supported_operators())}"
        )
    outputs = [name for name in node.output if name]
    if len(outputs) != 1:
        raise UnsupportedGraph(
            f"node {node_label(node)} has {len(outputs)} outputs, but the reference defines one"
        )
    return builder(Operands(node, constants))


def supported_operators() -> tuple[str, ...]:
    """Return the operators that the reference defines, as ``domain::Operator`` or ``Operator``."""
    names = {f"{domain}::{name}" if domain else name for domain, name in _BUILDERS}
    return tuple(sorted(names | {"Add", "Cast", "Mul"}))


def _convolution(node: Operands) -> Prepared:
    attributes = node.attributes(
        {"auto_pad": "NOTSET"},
        dilations=(1, 1),
        group=1,
        kernel_shape=None,
        pads=(0, 0, 0, 0),
        strides=(1, 1),
    )
    weight = node.weight("O×C×kh×kw")
    outputs, groups = weight.shape[0], int(attributes["group"])
    if groups < 1 or outputs % groups:
        raise node.refusal(f": {outputs} outputs in {groups} groups")
    if attributes["kernel_shape"] is not None:
        node.require("kernel_shape", list(attributes["kernel_shape"]), list(weight.shape[2:]))
    zero_points = node.per_output(5, "the weight zero point", np.int8, outputs)
    sx, sw, sy = node.scale(1, "input"), node.weight_scales(4, outputs), node.scale(6, "output")
    down, right = node.integers("strides", attributes["strides"], 2, least=1)
    dh, dw = node.integers("dilations", attributes["dilations"], 2, least=1)
    top, left, bottom, end = node.integers("pads", attributes["pads"], 4)
    layer = Convolution(
        what=node.what,
        weight=weight - zero_points.astype(np.int32)[:, None, None, None],
        bias=node.per_output(8, "the bias", np.int32, outputs).astype(np.int64),
        multiplier=node.positive((sx * sw) / sy, "the scales multiply to"),
        x_zero_point=node.zero_point(2, "input"),
        y_zero_point=node.zero_point(7, "output"),
        strides=(down, right),
        dilations=(dh, dw),
        pads=(top, left, bottom, end),
        groups=groups,
    )
    return node.x, layer


def _dense(node: Operands) -> Prepared:
    attributes = node.attributes({"alpha": 1.0, "transA": 0}, transB=0)
    weight = node.weight("K×O")
    if attributes["transB"]:
        weight = weight.T
    outputs = weight.shape[1]
    zero_points = node.per_output(5, "the weight zero point", np.int8, outputs)
    scale = node.scale(1, "input") * node.weight_scales(4, outputs)
    codes = any(node.node.input[7:9])
    if codes:
        scale = scale / node.scale(7, "output")
    layer = Dense(
        what=node.what,
        weight=weight - zero_points.astype(np.int32)[None, :],
        bias=node.per_output(6, "the bias", np.int32, outputs).astype(np.int64),
        scale=node.positive(scale, "the scales multiply to"),
        x_zero_point=node.zero_point(2, "input"),
        y_zero_point=node.zero_point(8, "output") if codes else None,
    )
    return node.x, layer


def _add(node: Operands) -> Prepared:
    node.attributes()
    codes: list[NDArray[Any]] = []
    computed: list[str] = []
    for index in (0, 3):
        name = node.node.input[index]
        if name in node.constants:
            codes.append(np.array([int(node.scalar(index, "a constant input", np.uint8))]))
        else:
            codes.append(ALL_CODES)
            computed.append(name)
    if not computed:
        raise node.refusal(" adds two constants; fold it")
    table = add_table(
        what=node.what,
        scales=(node.scale(1, "first"), node.scale(4, "second"), node.scale(6, "output")),
        zero_points=(
            node.zero_point(2, "first"),
            node.zero_point(5, "second"),
            node.zero_point(7, "output"),
        ),
        a_codes=codes[0],
        b_codes=codes[1],
    )
    table = table.reshape(-1)

    def addition(a: Codes, b: Codes) -> Codes:
        return table[a.astype(np.uint16) * np.uint16(256) + b]

    return tuple(computed), (lambda x: table[x]) if len(computed) == 1 else addition


def _clip(node: Operands) -> Prepared:
    node.attributes()
    low = node.scalar(1, "the minimum", np.uint8) if node.has(1) else np.uint8(0)
    high = node.scalar(2, "the maximum", np.uint8) if node.has(2) else np.uint8(255)
    return node.x, lambda x: np.clip(x, low, high)


def _max_pool(node: Operands) -> Prepared:
    attributes = node.attributes(
        {"auto_pad": "NOTSET", "ceil_mode": 0, "storage_order": 0},
        dilations=(1, 1),
        kernel_shape=None,
        pads=(0, 0, 0, 0),
        strides=(1, 1),
    )
    node.require("dilations", tuple(attributes["dilations"]), (1, 1))
    kh, kw = node.integers("kernel_shape", attributes["kernel_shape"] or (), 2, least=1)
    down, right = node.integers("strides", attributes["strides"], 2, least=1)
    top, left, bottom, end = node.integers("pads", attributes["pads"], 4)
    return node.x, lambda x: max_pool(
        x, kernel=(kh, kw), strides=(down, right), pads=(top, left, bottom, end)
    )


def _global_average_pool(node: Operands) -> Prepared:
    positions = (1, 2) if node.attributes(channels_last=0)["channels_last"] else (2, 3)
    scales = node.scale(1, "input"), node.scale(3, "output")
    zero_points = node.zero_point(2, "input"), node.zero_point(4, "output")
    return node.x, lambda x: global_average_pool(
        x, positions, scales=scales, zero_points=zero_points
    )


def _flatten(node: Operands) -> Prepared:
    axis = int(node.attributes(axis=1)["axis"])
    return node.x, lambda x: x.reshape(int(np.prod(x.shape[:axis])), -1)


def _pad(node: Operands) -> Prepared:
    node.attributes({"mode": "constant"})
    if node.has(3):
        raise node.refusal(" has axes; the reference defines none")
    amounts = node.constant(1, "the amounts", np.int64).reshape(2, -1)
    if amounts.min() < 0:
        raise node.refusal(f" cuts: its amounts are {amounts.tolist()}")
    value = int(node.scalar(2, "the padding value", np.uint8))
    widths = [(int(before), int(after)) for before, after in amounts.T]
    return node.x, lambda x: padded(x, widths, value)


def _reshape(node: Operands) -> Prepared:
    node.attributes({"allowzero": 0})
    shape = [int(n) for n in node.constant(1, "the shape", np.int64).reshape(-1)]
    return node.x, lambda x: x.reshape([n or x.shape[i] for i, n in enumerate(shape)])


def _transpose(node: Operands) -> Prepared:
    permutation = node.attributes(perm=None)["perm"]
    order = None if permutation is None else tuple(int(axis) for axis in permutation)
    return node.x, lambda x: np.ascontiguousarray(np.transpose(x, order))


def _space_to_depth(node: Operands) -> Prepared:
    side = int(node.attributes(blocksize=1)["blocksize"])
    if side < 1:
        raise node.refusal(": a block has at least one position")

    def blocks(x: Codes) -> Codes:
        if x.ndim != 4 or x.shape[2] % side or x.shape[3] % side:
            raise node.refusal(f": {x.shape} does not split into blocks of {side}×{side}")
        n, c, h, w = x.shape
        split = x.reshape(n, c, h // side, side, w // side, side)
        return split.transpose(0, 3, 5, 1, 2, 4).reshape(n, c * side**2, h // side, w // side)

    return node.x, blocks


def _mul(node: Operands) -> Prepared:
    node.attributes()
    sa, sb, sc = node.scale(1, "first"), node.scale(4, "second"), node.scale(6, "output")
    za, zb, zc = (
        node.zero_point(index, whose)
        for index, whose in ((2, "first"), (5, "second"), (7, "output"))
    )
    table = mul_table(what=node.what, scales=(sa, sb, sc), zero_points=(za, zb, zc)).reshape(-1)

    def product(a: Codes, b: Codes) -> Codes:
        require_room(node.what, *np.broadcast_shapes(a.shape, b.shape))
        index: Codes = table[a.astype(np.uint16) * np.uint16(256) + b]
        return index

    return (node.node.input[0], node.node.input[3]), product


def _gather(node: Operands) -> Prepared:
    node.attributes({"axis": 0})
    table = node.constant(0, "the table", np.uint8)
    if table.shape not in ((256,), (PAIRS,)):
        raise node.refusal(
            f": the table has the shape {table.shape}; a table of codes has 256, one of pairs "
            f"{PAIRS:,}"
        )
    return (node.node.input[1],), lambda x: table[x]


def _concat(node: Operands) -> Prepared:
    node.attributes({"axis": 1})

    def joined(*parts: Codes) -> Codes:
        require_room(node.what, sum(part.size for part in parts))
        return np.concatenate(parts, axis=1)

    return tuple(node.node.input), joined


def _slice(node: Operands) -> Prepared:
    node.attributes()
    starts, stops, axes = (
        node.constant(index, what, np.int64).reshape(-1)
        for index, what in ((1, "the starts"), (2, "the ends"), (3, "the axes"))
    )
    if node.has(4) or 0 in axes:
        raise node.refusal(" slices the batch, or skips; the reference defines neither")
    places = {int(a): slice(int(b), int(e)) for a, b, e in zip(axes, starts, stops, strict=True)}
    return node.x, lambda x: x[tuple(places.get(axis, slice(None)) for axis in range(x.ndim))]


def _resize(node: Operands) -> Prepared:
    node.attributes(
        {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
    )
    factors = node.constant(2, "the factors", np.float32).reshape(-1)
    whole = factors.astype(np.int64)
    if len(factors) != 4 or (whole != factors).any() or list(whole[:2]) != [1, 1]:
        raise node.refusal(f" resizes by {factors.tolist()}; whole factors are defined")
    down, right = int(whole[2]), int(whole[3])

    def repeated(x: Codes) -> Codes:
        require_room(node.what, *x.shape, down, right)
        return x.repeat(down, axis=2).repeat(right, axis=3)

    return node.x, repeated


_BUILDERS: dict[tuple[str, str], Callable[[Operands], Prepared]] = {
    ("", "Clip"): _clip,
    ("", "Concat"): _concat,
    ("", "Flatten"): _flatten,
    ("", "Gather"): _gather,
    ("", "MaxPool"): _max_pool,
    ("", "Pad"): _pad,
    ("", "QLinearConv"): _convolution,
    ("", "Reshape"): _reshape,
    ("", "Resize"): _resize,
    ("", "Slice"): _slice,
    ("", "SpaceToDepth"): _space_to_depth,
    ("", "Transpose"): _transpose,
    (MICROSOFT, "QGemm"): _dense,
    (MICROSOFT, "QLinearAdd"): _add,
    (MICROSOFT, "QLinearGlobalAveragePool"): _global_average_pool,
    (MICROSOFT, "QLinearMul"): _mul,
}
