"""Turn one ONNX node into the numpy function that computes it, and check everything in it once.

An operator, attribute, type or layout that the reference does not define is refused with the
node's name and never ignored, because a reference that guesses proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import attributes_of, node_label, type_name
from export.reference.arithmetic import (
    Codes,
    Convolution,
    Dense,
    add_table,
    global_average_pool,
    max_pool,
    mul_table,
    padded,
    require_room,
)
from export.reference.errors import UnsupportedGraph

Constants = Mapping[str, NDArray[Any]]
Function = Callable[..., NDArray[Any]]
Prepared = tuple[tuple[str, ...], Function]
"""Names of the tensors that the function reads, in argument order, and the function."""

MICROSOFT = "com.microsoft"
ALL_CODES = np.arange(256)
PAIRS = 256 * 256


@dataclass(frozen=True)
class _Operands:
    """A node with the stored tensors of its file; anything undefined is refused."""

    node: onnx.NodeProto
    constants: Constants

    @property
    def what(self) -> str:
        """The node's name in errors."""
        return f"node {node_label(self.node)}"

    @property
    def x(self) -> tuple[str]:
        """The name of the tensor that it reads."""
        return (self.node.input[0],)

    def has(self, index: int) -> bool:
        """Whether an optional input is present."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def refusal(self, text: str) -> UnsupportedGraph:
        """An error that names the node."""
        return UnsupportedGraph(f"{self.what}{text}")

    def attributes(self, required: Mapping[str, Any] | None = None, **known: Any) -> dict[str, Any]:
        """The attributes, with defaults ``known``; ``required`` has the only allowed values."""
        wanted = dict(required or {})
        found = {**wanted, **known}
        for name, value in attributes_of(self.node).items():
            if name not in found:
                listed = ", ".join(sorted(found)) or "none"
                raise self.refusal(
                    f" has the attribute {name!r}, but the reference supports {listed} "
                    f"for {self.node.op_type}"
                )
            found[name] = value.decode() if isinstance(value, bytes) else value
        for name, value in wanted.items():
            self.require(name, found[name], value)
        return found

    def require(self, name: str, found: Any, wanted: Any) -> None:
        """Refuse an attribute whose value is not the one that is defined."""
        if found != wanted:
            raise self.refusal(
                f" has {name} = {found!r}, but the reference defines only {wanted!r}"
            )

    def integers(self, name: str, value: Any, length: int, least: int = 0) -> tuple[int, ...]:
        """An attribute of ``length`` integers, each ``least`` or more."""
        values = tuple(int(one) for one in value)
        if len(values) != length or min(values) < least:
            raise self.refusal(
                f": {name} must be {length} integers from {least} on (the reference defines two "
                f"dimensions), not {list(values)}"
            )
        return values

    def constant(self, index: int, what: str, dtype: type[np.generic]) -> NDArray[Any]:
        """A stored input of this type."""
        name = self.node.input[index] if index < len(self.node.input) else ""
        value = self.constants.get(name)
        if value is None or value.dtype != dtype:
            found = "missing" if not name else "computed" if value is None else f"{value.dtype}"
            raise self.refusal(
                f": {what} (input {index}, {name!r}) must be a stored {np.dtype(dtype).name} "
                f"tensor but is {found}"
            )
        return value

    def scalar(self, index: int, what: str, dtype: type[np.generic]) -> Any:
        """A stored input of one value."""
        value = self.constant(index, what, dtype)
        if value.size != 1:
            raise self.refusal(f": {what} must be one value, not of shape {value.shape}")
        return value.reshape(())[()]

    def scale(self, index: int, whose: str) -> np.float32:
        """A stored scale of one value."""
        value = np.float32(self.scalar(index, f"the {whose} scale", np.float32))
        if not (np.isfinite(value) and value > 0):
            raise self.refusal(f": the {whose} scale must be positive and finite, not {value}")
        return value

    def zero_point(self, index: int, whose: str) -> int:
        """A stored uint8 zero point of one value."""
        return int(self.scalar(index, f"the {whose} zero point", np.uint8))

    def per_output(
        self, index: int, what: str, dtype: type[np.generic], outputs: int
    ) -> NDArray[Any]:
        """One stored value, or one for each output; zeros if the input is omitted."""
        if not self.has(index):
            return np.zeros(outputs, dtype)
        values = self.constant(index, what, dtype)
        if values.size not in (1, outputs):
            raise self.refusal(f": {what} must be 1 or {outputs} values, not {values.size}")
        return np.broadcast_to(values.reshape(-1), (outputs,))

    def weight_scales(self, index: int, outputs: int) -> NDArray[np.float32]:
        """Stored scales of the weights, one for each output."""
        self.constant(index, "the weight scale", np.float32)
        scales = self.per_output(index, "the weight scale", np.float32, outputs)
        return self.positive(scales, "the weight scale is")

    def positive(self, scales: NDArray[np.float32], what: str) -> NDArray[np.float32]:
        """Refuse scales, or products of scales, that are not positive and finite."""
        if not (np.isfinite(scales) & (scales > 0)).all():
            raise self.refusal(f": {what} {scales.min()}…{scales.max()} in float32; it is damaged")
        return scales

    def weight(self, dims: str) -> NDArray[np.int32]:
        """Input 3, the stored int8 weight, with the dimensions ``dims`` (such as ``O×C×kh×kw``)."""
        weight = self.constant(3, "the weight", np.int8).astype(np.int32)
        if weight.ndim != dims.count("×") + 1 or weight.size == 0:
            raise self.refusal(f": the weight must be {dims}, not of shape {weight.shape}")
        return weight


def fold_cast(node: onnx.NodeProto, constants: Constants) -> NDArray[np.int8]:
    """Return a stored INT2, INT4 or INT8 tensor that a ``Cast`` reads, as int8.

    Raises:
        UnsupportedGraph: the input is not stored, or the pair of types is another one.
    """
    to = _Operands(node, constants).attributes(to=None, saturate=1, round_mode="up")["to"]
    stored = constants.get(node.input[0])
    allowed = (ml_dtypes.int2, ml_dtypes.int4, np.int8)
    if stored is None or to != onnx.TensorProto.INT8 or stored.dtype not in allowed:
        source = "a computed tensor" if stored is None else f"stored {stored.dtype}"
        raise UnsupportedGraph(
            f"Cast {node_label(node)} of {source} to {type_name(to or 0)}: only stored INT2, INT4 "
            "or INT8 weights are cast, to INT8"
        )
    return stored.astype(np.int8)


def index_cast(node: onnx.NodeProto) -> str:
    """Return the tensor of codes that a ``Cast`` to int32 converts to indices of the same value.

    Raises:
        UnsupportedGraph: it casts to another type.
    """
    to = _Operands(node, {}).attributes(to=None, saturate=1, round_mode="up")["to"]
    if to != onnx.TensorProto.INT32:
        raise UnsupportedGraph(
            f"Cast {node_label(node)} of codes to {type_name(to or 0)}: codes are only cast to "
            "int32, as the indices of a table"
        )
    return str(node.input[0])


@dataclass(frozen=True)
class Index:
    """An int32 tensor of table indices, and the codes from which it is computed.

    Attributes:
        reads: names of the tensors of codes.
        largest: the largest possible index.
        of: returns the index, int64, for those codes.
    """

    reads: tuple[str, ...]
    largest: int
    of: Function


def index(node: onnx.NodeProto, indices: Mapping[str, Index], constants: Constants) -> Index | None:
    """The index that a node computes; None if it computes none.

    An index is codes cast to int32, an index times a stored number, or the sum of two indices.

    Raises:
        UnsupportedGraph: a cast of codes to another type, or an index outside int32.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    operands = _Operands(node, constants)
    if node.op_type == "Cast":
        name = index_cast(node)
        return Index((name,), 255, lambda x: x.astype(np.int64))
    if node.op_type not in ("Add", "Mul") or node.input[0] not in indices:
        return None
    operands.attributes()
    first = indices[node.input[0]]
    if node.op_type == "Mul":
        factor = int(operands.scalar(1, "the factor", np.int32))
        found = Index(first.reads, first.largest * factor, lambda *x: first.of(*x) * factor)
        lowest = factor
    else:
        if node.input[1] not in indices:
            raise operands.refusal(" adds to an index a tensor that is not an index")
        second, count = indices[node.input[1]], len(first.reads)
        found = Index(
            first.reads + second.reads,
            first.largest + second.largest,
            lambda *x: first.of(*x[:count]) + second.of(*x[count:]),
        )
        lowest = 0
    if not lowest >= 0 or found.largest >= 2**31:
        raise operands.refusal(f": an index of up to {found.largest:,} does not fit into int32")
    return found


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
    return builder(_Operands(node, constants))


def supported_operators() -> tuple[str, ...]:
    """Return the operators that the reference defines, as ``domain::Operator`` or ``Operator``."""
    names = {f"{domain}::{name}" if domain else name for domain, name in _BUILDERS}
    return tuple(sorted(names | {"Add", "Cast", "Mul"}))


def _convolution(node: _Operands) -> Prepared:
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


def _dense(node: _Operands) -> Prepared:
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


def _add(node: _Operands) -> Prepared:
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


def _clip(node: _Operands) -> Prepared:
    node.attributes()
    low = node.scalar(1, "the minimum", np.uint8) if node.has(1) else np.uint8(0)
    high = node.scalar(2, "the maximum", np.uint8) if node.has(2) else np.uint8(255)
    return node.x, lambda x: np.clip(x, low, high)


def _max_pool(node: _Operands) -> Prepared:
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


def _global_average_pool(node: _Operands) -> Prepared:
    positions = (1, 2) if node.attributes(channels_last=0)["channels_last"] else (2, 3)
    scales = node.scale(1, "input"), node.scale(3, "output")
    zero_points = node.zero_point(2, "input"), node.zero_point(4, "output")
    return node.x, lambda x: global_average_pool(
        x, positions, scales=scales, zero_points=zero_points
    )


def _flatten(node: _Operands) -> Prepared:
    axis = int(node.attributes(axis=1)["axis"])
    return node.x, lambda x: x.reshape(int(np.prod(x.shape[:axis])), -1)


def _pad(node: _Operands) -> Prepared:
    node.attributes({"mode": "constant"})
    if node.has(3):
        raise node.refusal(" has axes; the reference defines none")
    amounts = node.constant(1, "the amounts", np.int64).reshape(2, -1)
    if amounts.min() < 0:
        raise node.refusal(f" cuts: its amounts are {amounts.tolist()}")
    value = int(node.scalar(2, "the padding value", np.uint8))
    widths = [(int(before), int(after)) for before, after in amounts.T]
    return node.x, lambda x: padded(x, widths, value)


def _reshape(node: _Operands) -> Prepared:
    node.attributes({"allowzero": 0})
    shape = [int(n) for n in node.constant(1, "the shape", np.int64).reshape(-1)]
    return node.x, lambda x: x.reshape([n or x.shape[i] for i, n in enumerate(shape)])


def _transpose(node: _Operands) -> Prepared:
    permutation = node.attributes(perm=None)["perm"]
    order = None if permutation is None else tuple(int(axis) for axis in permutation)
    return node.x, lambda x: np.ascontiguousarray(np.transpose(x, order))


def _space_to_depth(node: _Operands) -> Prepared:
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


def _mul(node: _Operands) -> Prepared:
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


def _gather(node: _Operands) -> Prepared:
    node.attributes({"axis": 0})
    table = node.constant(0, "the table", np.uint8)
    if table.shape not in ((256,), (PAIRS,)):
        raise node.refusal(
            f": the table has the shape {table.shape}; a table of codes has 256, one of pairs "
            f"{PAIRS:,}"
        )
    return (node.node.input[1],), lambda x: table[x]


def _concat(node: _Operands) -> Prepared:
    node.attributes({"axis": 1})

    def joined(*parts: Codes) -> Codes:
        require_room(node.what, sum(part.size for part in parts))
        return np.concatenate(parts, axis=1)

    return tuple(node.node.input), joined


def _slice(node: _Operands) -> Prepared:
    node.attributes()
    starts, stops, axes = (
        node.constant(index, what, np.int64).reshape(-1)
        for index, what in ((1, "the starts"), (2, "the ends"), (3, "the axes"))
    )
    if node.has(4) or 0 in axes:
        raise node.refusal(" slices the batch, or skips; the reference defines neither")
    places = {int(a): slice(int(b), int(e)) for a, b, e in zip(axes, starts, stops, strict=True)}
    return node.x, lambda x: x[tuple(places.get(axis, slice(None)) for axis in range(x.ndim))]


def _resize(node: _Operands) -> Prepared:
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


_BUILDERS: dict[tuple[str, str], Callable[[_Operands], Prepared]] = {
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
