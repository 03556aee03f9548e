"""From one ONNX node to the numpy function that computes it: everything is checked here, once.

An operator, attribute, type or layout that the reference does not define is refused with the
node's name, never ignored: a reference that guesses proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import node_label, type_name
from export.reference.arithmetic import (
    Codes,
    Convolution,
    Dense,
    add_table,
    global_average_pool,
    max_pool,
)
from export.reference.errors import UnsupportedGraph

Constants = Mapping[str, NDArray[Any]]
Function = Callable[..., NDArray[Any]]
Prepared = tuple[tuple[str, ...], Function]
"""Names of the tensors that the function reads, in its order, and the function."""

MICROSOFT = "com.microsoft"
ALL_CODES = np.arange(256)


def fold_cast(node: onnx.NodeProto, constants: Constants) -> NDArray[np.int8]:
    """Give a stored INT2, INT4 or INT8 tensor behind a ``Cast`` as int8.

    Raises:
        UnsupportedGraph: the input is not stored, or another pair of types.
    """
    to = _attributes(node, to=None, saturate=1, round_mode="up")["to"]
    stored = constants.get(node.input[0])
    allowed = (ml_dtypes.int2, ml_dtypes.int4, np.int8)
    if stored is None or to != onnx.TensorProto.INT8 or stored.dtype not in allowed:
        source = "a computed tensor" if stored is None else f"stored {stored.dtype}"
        raise UnsupportedGraph(
            f"Cast {node_label(node)} of {source} to {type_name(to or 0)}: only stored INT2, INT4 "
            "or INT8 weights are cast, to INT8"
        )
    return stored.astype(np.int8)


def prepare(node: onnx.NodeProto, constants: Constants) -> Prepared:
    """Check a node and give the function that computes it.

    Raises:
        UnsupportedGraph: naming the node, what it has and what the reference defines.
        NotReproducible: a ``QLinearAdd`` that the engine's rounding would decide.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    builder = _BUILDERS.get((domain, node.op_type))
    if builder is None:
        raise UnsupportedGraph(
            f"node {node_label(node)} of domain {domain!r} has no integer reference. "
            f"Defined are: {', '.join(supported_operators())}."
        )
    outputs = [name for name in node.output if name]
    if len(outputs) != 1:
        raise UnsupportedGraph(
            f"node {node_label(node)} has {len(outputs)} outputs; the reference defines one"
        )
    return builder(node, constants)


def supported_operators() -> tuple[str, ...]:
    """Give the operators that the reference defines, as ``domain::Operator`` or ``Operator``."""
    names = {f"{domain}::{name}" if domain else name for domain, name in _BUILDERS}
    return tuple(sorted(names | {"Cast"}))


def _attributes(node: onnx.NodeProto, **known: Any) -> dict[str, Any]:
    """Give the node's attributes over defaults; one that is not among them is refused."""
    found = dict(known)
    for attribute in node.attribute:
        if attribute.name not in known:
            raise UnsupportedGraph(
                f"node {node_label(node)} has attribute {attribute.name!r}; the reference knows "
                f"{', '.join(sorted(known)) or 'none'} for {node.op_type}"
            )
        value = onnx.helper.get_attribute_value(attribute)
        found[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return found


def _require(node: onnx.NodeProto, attributes: Mapping[str, Any], **required: Any) -> None:
    for name, value in required.items():
        if attributes[name] != value:
            raise UnsupportedGraph(
                f"node {node_label(node)} has {name} = {attributes[name]!r}; the reference "
                f"defines {value!r} only"
            )


def _constant(
    node: onnx.NodeProto, index: int, what: str, constants: Constants, dtype: type[np.generic]
) -> NDArray[Any]:
    name = node.input[index] if index < len(node.input) else ""
    value = constants.get(name)
    if value is None or value.dtype != dtype:
        found = "missing" if not name else "computed" if value is None else f"{value.dtype}"
        raise UnsupportedGraph(
            f"node {node_label(node)}: {what} (input {index}, {name!r}) must be a stored "
            f"{np.dtype(dtype).name} tensor and is {found}"
        )
    return value


def _scalar(
    node: onnx.NodeProto, index: int, what: str, constants: Constants, dtype: type[np.generic]
) -> Any:
    value = _constant(node, index, what, constants, dtype)
    if value.size != 1:
        raise UnsupportedGraph(
            f"node {node_label(node)}: {what} must be one value, not of shape {value.shape}"
        )
    return value.reshape(())[()]


def _scale(node: onnx.NodeProto, index: int, what: str, constants: Constants) -> np.float32:
    value = np.float32(_scalar(node, index, what, constants, np.float32))
    if not (np.isfinite(value) and value > 0):
        raise UnsupportedGraph(
            f"node {node_label(node)}: {what} must be positive and finite, not {value}"
        )
    return value


def _zero_point(node: onnx.NodeProto, index: int, what: str, constants: Constants) -> int:
    return int(_scalar(node, index, what, constants, np.uint8))


def _weight_scales(
    node: onnx.NodeProto, index: int, outputs: int, constants: Constants
) -> NDArray[np.float32]:
    scales = _constant(node, index, "the weight scale", constants, np.float32)
    if scales.size not in (1, outputs) or not (np.isfinite(scales) & (scales > 0)).all():
        raise UnsupportedGraph(
            f"node {node_label(node)}: the weight scale must be 1 or {outputs} positive finite "
            f"values, not {scales.size} of {scales.min()}…{scales.max()}"
        )
    return np.broadcast_to(scales.reshape(-1), (outputs,))


def _weight_zero_points(
    node: onnx.NodeProto, index: int, outputs: int, constants: Constants
) -> NDArray[np.int32]:
    if index >= len(node.input) or not node.input[index]:
        return np.zeros(outputs, np.int32)
    values = _constant(node, index, "the weight zero point", constants, np.int8)
    if values.size not in (1, outputs):
        raise UnsupportedGraph(
            f"node {node_label(node)}: the weight zero point must be 1 or {outputs} values, not "
            f"{values.size}"
        )
    return np.broadcast_to(values.reshape(-1).astype(np.int32), (outputs,))


def _bias(
    node: onnx.NodeProto, index: int, outputs: int, constants: Constants
) -> NDArray[np.int64]:
    if index >= len(node.input) or not node.input[index]:
        return np.zeros(outputs, np.int64)
    values = _constant(node, index, "the bias", constants, np.int32)
    if values.size not in (1, outputs):
        raise UnsupportedGraph(
            f"node {node_label(node)}: the bias must be 1 or {outputs} values, not {values.size}"
        )
    return np.broadcast_to(values.reshape(-1).astype(np.int64), (outputs,))


def _finite_multiplier(node: onnx.NodeProto, value: NDArray[np.float32]) -> NDArray[np.float32]:
    if not (np.isfinite(value) & (value > 0)).all():
        raise UnsupportedGraph(
            f"node {node_label(node)}: the scales multiply to {value.min()}…{value.max()} in "
            "float32: they are damaged"
        )
    return value


def _pair(node: onnx.NodeProto, name: str, value: Any, length: int) -> tuple[int, ...]:
    values = tuple(int(one) for one in value)
    if len(values) != length or min(values) < 0:
        raise UnsupportedGraph(
            f"node {node_label(node)}: {name} must be {length} non-negative integers (the "
            f"reference defines two dimensions), not {list(values)}"
        )
    return values


def _convolution(node: onnx.NodeProto, constants: Constants) -> Prepared:
    attributes = _attributes(
        node,
        auto_pad="NOTSET",
        dilations=(1, 1),
        group=1,
        kernel_shape=None,
        pads=(0, 0, 0, 0),
        strides=(1, 1),
    )
    _require(node, attributes, auto_pad="NOTSET")
    weight = _constant(node, 3, "the weight", constants, np.int8).astype(np.int32)
    if weight.ndim != 4 or weight.size == 0:
        raise UnsupportedGraph(
            f"node {node_label(node)}: the weight must be O×C×kh×kw, not of shape {weight.shape}"
        )
    outputs, groups = weight.shape[0], int(attributes["group"])
    if groups < 1 or outputs % groups:
        raise UnsupportedGraph(f"node {node_label(node)}: {outputs} outputs in {groups} groups")
    if attributes["kernel_shape"] is not None:
        _require(
            node,
            {"kernel_shape": list(attributes["kernel_shape"])},
            kernel_shape=list(weight.shape[2:]),
        )
    weight -= _weight_zero_points(node, 5, outputs, constants)[:, None, None, None]
    sx = _scale(node, 1, "the input scale", constants)
    sw = _weight_scales(node, 4, outputs, constants)
    sy = _scale(node, 6, "the output scale", constants)
    sh, sw_right = _pair(node, "strides", attributes["strides"], 2)
    dh, dw = _pair(node, "dilations", attributes["dilations"], 2)
    if min(sh, sw_right, dh, dw) < 1:
        raise UnsupportedGraph(f"node {node_label(node)}: strides and dilations start at 1")
    top, left, bottom, right = _pair(node, "pads", attributes["pads"], 4)
    layer = Convolution(
        what=f"node {node_label(node)}",
        weight=weight,
        bias=_bias(node, 8, outputs, constants),
        multiplier=_finite_multiplier(node, (sx * sw) / sy),
        x_zero_point=_zero_point(node, 2, "the input zero point", constants),
        y_zero_point=_zero_point(node, 7, "the output zero point", constants),
        strides=(sh, sw_right),
        dilations=(dh, dw),
        pads=(top, left, bottom, right),
        groups=groups,
    )
    return (node.input[0],), layer


def _dense(node: onnx.NodeProto, constants: Constants) -> Prepared:
    attributes = _attributes(node, alpha=1.0, transA=0, transB=0)
    _require(node, attributes, alpha=1.0, transA=0)
    if any(node.input[7:9]):
        raise UnsupportedGraph(
            f"node {node_label(node)} has an output scale; the reference defines QGemm with "
            "float32 output only"
        )
    weight = _constant(node, 3, "the weight", constants, np.int8).astype(np.int32)
    if weight.ndim != 2 or weight.size == 0:
        raise UnsupportedGraph(
            f"node {node_label(node)}: the weight must be a matrix, not of shape {weight.shape}"
        )
    if attributes["transB"]:
        weight = weight.T
    outputs = weight.shape[1]
    sx = _scale(node, 1, "the input scale", constants)
    layer = Dense(
        what=f"node {node_label(node)}",
        weight=weight - _weight_zero_points(node, 5, outputs, constants)[None, :],
        bias=_bias(node, 6, outputs, constants),
        scale=_finite_multiplier(node, sx * _weight_scales(node, 4, outputs, constants)),
        x_zero_point=_zero_point(node, 2, "the input zero point", constants),
    )
    return (node.input[0],), layer


def _add(node: onnx.NodeProto, constants: Constants) -> Prepared:
    _attributes(node)
    scales = (
        _scale(node, 1, "the first scale", constants),
        _scale(node, 4, "the second scale", constants),
        _scale(node, 6, "the output scale", constants),
    )
    zero_points = (
        _zero_point(node, 2, "the first zero point", constants),
        _zero_point(node, 5, "the second zero point", constants),
        _zero_point(node, 7, "the output zero point", constants),
    )
    codes: list[NDArray[Any]] = []
    computed: list[str] = []
    for index in (0, 3):
        if node.input[index] in constants:
            one = _scalar(node, index, "a constant input", constants, np.uint8)
            codes.append(np.array([int(one)]))
        else:
            codes.append(ALL_CODES)
            computed.append(node.input[index])
    if not computed:
        raise UnsupportedGraph(f"node {node_label(node)} adds two constants: fold it")
    what = f"node {node_label(node)}"
    table = add_table(
        what=what, scales=scales, zero_points=zero_points, a_codes=codes[0], b_codes=codes[1]
    ).reshape(-1)

    def requantization(x: Codes) -> Codes:
        return table[x]

    def addition(a: Codes, b: Codes) -> Codes:
        if a.shape != b.shape:
            raise UnsupportedGraph(f"{what} adds {a.shape} and {b.shape}: broadcasting is refused")
        return table[a.astype(np.uint16) * np.uint16(256) + b]

    return tuple(computed), requantization if len(computed) == 1 else addition


def _clip(node: onnx.NodeProto, constants: Constants) -> Prepared:
    _attributes(node)
    bounds = [0, 255]
    for index, what in ((1, "the minimum"), (2, "the maximum")):
        if index < len(node.input) and node.input[index]:
            bounds[index - 1] = int(_scalar(node, index, what, constants, np.uint8))
    low, high = (np.uint8(bound) for bound in bounds)
    return (node.input[0],), lambda x: np.clip(x, low, high)


def _max_pool(node: onnx.NodeProto, constants: Constants) -> Prepared:
    attributes = _attributes(
        node,
        auto_pad="NOTSET",
        ceil_mode=0,
        dilations=(1, 1),
        kernel_shape=None,
        pads=(0, 0, 0, 0),
        storage_order=0,
        strides=(1, 1),
    )
    dilations = tuple(attributes["dilations"])
    _require(
        node,
        {**attributes, "dilations": dilations},
        auto_pad="NOTSET",
        ceil_mode=0,
        dilations=(1, 1),
        storage_order=0,
    )
    kh, kw = _pair(node, "kernel_shape", attributes["kernel_shape"] or (), 2)
    sh, sw = _pair(node, "strides", attributes["strides"], 2)
    top, left, bottom, right = _pair(node, "pads", attributes["pads"], 4)
    if min(kh, kw, sh, sw) < 1:
        raise UnsupportedGraph(f"node {node_label(node)}: kernel and strides start at 1")
    return (node.input[0],), lambda x: max_pool(
        x, kernel=(kh, kw), strides=(sh, sw), pads=(top, left, bottom, right)
    )


def _global_average_pool(node: onnx.NodeProto, constants: Constants) -> Prepared:
    positions = (1, 2) if _attributes(node, channels_last=0)["channels_last"] else (2, 3)
    scales = (
        _scale(node, 1, "the input scale", constants),
        _scale(node, 3, "the output scale", constants),
    )
    zero_points = (
        _zero_point(node, 2, "the input zero point", constants),
        _zero_point(node, 4, "the output zero point", constants),
    )
    return (node.input[0],), lambda x: global_average_pool(
        x, positions, scales=scales, zero_points=zero_points
    )


def _flatten(node: onnx.NodeProto, constants: Constants) -> Prepared:
    axis = int(_attributes(node, axis=1)["axis"])

    def flatten(x: Codes) -> Codes:
        first = int(np.prod(x.shape[:axis]))
        return x.reshape(first, -1)

    return (node.input[0],), flatten


def _pad(node: onnx.NodeProto, constants: Constants) -> Prepared:
    _require(node, _attributes(node, mode="constant"), mode="constant")
    if len(node.input) > 3 and node.input[3]:
        raise UnsupportedGraph(f"Pad {node_label(node)} has axes; the reference defines none")
    amounts = _constant(node, 1, "the amounts", constants, np.int64).reshape(2, -1)
    if amounts.min() < 0:
        raise UnsupportedGraph(f"Pad {node_label(node)} cuts: its amounts are {amounts.tolist()}")
    value = int(_scalar(node, 2, "the padding value", constants, np.uint8))
    widths = [(int(before), int(after)) for before, after in amounts.T]
    return (node.input[0],), lambda x: np.pad(x, widths, constant_values=value)


def _reshape(node: onnx.NodeProto, constants: Constants) -> Prepared:
    attributes = _attributes(node, allowzero=0)
    _require(node, attributes, allowzero=0)
    shape = [int(n) for n in _constant(node, 1, "the shape", constants, np.int64).reshape(-1)]

    def reshape(x: Codes) -> Codes:
        wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
        return x.reshape(wanted)

    return (node.input[0],), reshape


def _transpose(node: onnx.NodeProto, constants: Constants) -> Prepared:
    permutation = _attributes(node, perm=None)["perm"]
    order = None if permutation is None else tuple(int(axis) for axis in permutation)
    return (node.input[0],), lambda x: np.ascontiguousarray(np.transpose(x, order))


def _space_to_depth(node: onnx.NodeProto, constants: Constants) -> Prepared:
    side = int(_attributes(node, blocksize=1)["blocksize"])
    if side < 1:
        raise UnsupportedGraph(f"node {node_label(node)}: a block has at least one position")
    what = f"node {node_label(node)}"

    def blocks(x: Codes) -> Codes:
        if x.ndim != 4 or x.shape[2] % side or x.shape[3] % side:
            raise UnsupportedGraph(f"{what}: {x.shape} does not split into blocks of {side}×{side}")
        n, c, h, w = x.shape
        split = x.reshape(n, c, h // side, side, w // side, side)
        return split.transpose(0, 3, 5, 1, 2, 4).reshape(n, c * side**2, h // side, w // side)

    return (node.input[0],), blocks


_BUILDERS: dict[tuple[str, str], Callable[[onnx.NodeProto, Constants], Prepared]] = {
    ("", "Clip"): _clip,
    ("", "Flatten"): _flatten,
    ("", "MaxPool"): _max_pool,
    ("", "Pad"): _pad,
    ("", "QLinearConv"): _convolution,
    ("", "Reshape"): _reshape,
    ("", "SpaceToDepth"): _space_to_depth,
    ("", "Transpose"): _transpose,
    (MICROSOFT, "QGemm"): _dense,
    (MICROSOFT, "QLinearAdd"): _add,
    (MICROSOFT, "QLinearGlobalAveragePool"): _global_average_pool,
}
