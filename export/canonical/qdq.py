"""Q/DQ pairs and QONNX' newer names, as ``Quant``.

QuantizeLinear(x; s, z) → DequantizeLinear is Quant(x; s, z, bits of the type), because both round
x / s half to even.  A Clip of the codes to low … high between the two (Brevitas' QCDQ) is a Clip of
x to s (low - z) … s (high - z) before it, because rounding is monotone.  An operator that only
moves codes, such as MaxPool between the two, commutes with DequantizeLinear.  DequantizeLinear of
stored codes is Quant of the stored values, because k s / s rounds to k.  If they are parameters of
an operator, not its operand, only the values are needed: ONNX Runtime quantizes gains, slopes and
borders too.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from deploy.core.errors import InputError
from export.canonical.draft import Draft
from export.graph import attributes_of, node_label
from export.graph_builder import QONNX

MOVERS = (
    "Concat", "Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that are between QuantizeLinear and DequantizeLinear in some files."""

PARAMETRIC = ("BatchNormalization", "Clip", "PRelu", "Pad")
"""Operators whose inputs after the first are parameters."""

_TYPES = {np.dtype(np.uint8): (8, 0), np.dtype(np.int8): (8, 1), np.dtype(np.int32): (32, 1)}
"""Bits and sign by the type of the codes."""


def as_quant(draft: Draft) -> None:
    """Write every quantizer of the graph as QONNX ``Quant``.

    Raises:
        InputError: scales that are computed, codes of another type, blocks of scales, or a
            DequantizeLinear with other parameters than its QuantizeLinear.
    """
    for node in list(draft.nodes):
        if node.op_type == "IntQuant":
            node.op_type = "Quant"
        elif node.op_type == "QuantizeLinear":
            _pair(draft, node)
    for node in list(draft.nodes):
        if node.op_type == "DequantizeLinear":
            _stored(draft, node)


Parameters = tuple[NDArray[np.float32], NDArray[np.generic]]
"""Scale and zero point."""


def _parameters(draft: Draft, node: onnx.NodeProto) -> Parameters:
    names = [*node.input[1:], ""][:2]
    if any(name and name not in draft.constants for name in names):
        raise InputError(
            f"{draft.path}: {node_label(node)}: its scale or zero point is computed from the "
            "image; only stored scales and zero points can be lowered (static quantization)"
        )
    attributes = attributes_of(node)
    if attributes.get("block_size", 0):
        raise InputError(f"{draft.path}: {node_label(node)} has a scale for each block of values")
    scale = draft.constants[names[0]].astype(np.float32)
    zero = draft.constants[names[1]] if names[1] else np.uint8(0)
    return scale, np.asarray(zero)


def _along(value: NDArray[np.generic], node: onnx.NodeProto, rank: int) -> NDArray[np.float32]:
    """A parameter reshaped to broadcast against a tensor of this rank."""
    wide = value.astype(np.float32)
    if wide.size == 1 or rank == 0:
        return wide.reshape(()) if wide.size == 1 else wide
    axis = int(attributes_of(node).get("axis", 1)) % rank
    return wide.reshape([-1 if index == axis else 1 for index in range(rank)])


def _kind(draft: Draft, node: onnx.NodeProto, dtype: np.dtype[np.generic]) -> tuple[int, int]:
    if dtype not in _TYPES:
        raise InputError(
            f"{draft.path}: {node_label(node)} has codes of {dtype}; only int8 and uint8 can be "
            "lowered (and int32 for a bias); quantize to 8 bits"
        )
    return _TYPES[dtype]


def _quant(
    draft: Draft,
    node: onnx.NodeProto,
    x: str,
    output: str,
    scale: NDArray[np.float32],
    zero: NDArray[np.float32],
    kind: tuple[int, int],
) -> onnx.NodeProto:
    bits, signed = kind
    inputs = [
        x,
        draft.constant(scale, f"{output}.scale"),
        draft.constant(zero, f"{output}.zero"),
        draft.constant(np.float32(bits), f"{output}.bits"),
    ]
    return helper.make_node(
        "Quant",
        inputs,
        [output],
        name=node.name,
        domain=QONNX,
        signed=signed,
        narrow=0,
        rounding_mode="ROUND",
    )


def _pair(draft: Draft, node: onnx.NodeProto) -> None:
    """Convert one QuantizeLinear with all readers of its codes."""
    scale, zero = _parameters(draft, node)
    kind = _kind(draft, node, zero.dtype)
    if scale.size != 1:
        raise InputError(
            f"{draft.path}: {node_label(node)} has {scale.size} scales, but activations must "
            "have one scale per tensor"
        )
    x, values = node.input[0], node.output[0]
    bounds: tuple[float, float] | None = None
    wiring = draft.wiring
    readers = wiring.readers(values)
    if len(readers) == 1 and readers[0].op_type == "Clip":
        clip = readers[0]
        ends = [draft.constants.get(name) for name in clip.input[1:3]]
        if len(ends) != 2 or any(one is None or one.size != 1 for one in ends):
            raise InputError(f"{draft.path}: {node_label(clip)} has bounds that are not stored")
        by, zero_code = float(scale.item()), float(zero.item())
        low, high = (float(one.item()) for one in ends if one is not None)
        bounds = (by * (low - zero_code), by * (high - zero_code))
        draft.rename(clip.output[0], values)
        draft.nodes.remove(clip)
    nodes = []
    if bounds is not None:
        clamped = draft.name(f"{values}.clamped")
        limits = [draft.constant(np.float32(end), f"{values}.bound") for end in bounds]
        nodes.append(helper.make_node("Clip", [x, *limits], [clamped], name=f"{node.name}.clamp"))
        x = clamped
    quant = _quant(
        draft, node, x, values, scale.reshape(()), zero.astype(np.float32).reshape(()), kind
    )
    draft.replace(node, *nodes, quant)
    _dequantized(draft, values, (scale, zero), quant)


def _dequantized(
    draft: Draft,
    tensor: str,
    parameters: Parameters,
    quant: onnx.NodeProto,
) -> None:
    """Remove the DequantizeLinear nodes that read these codes; they are already values."""
    first = quant.output[0] == tensor
    for reader in draft.wiring.readers(tensor):
        if reader.op_type == "DequantizeLinear":
            found = _parameters(draft, reader)
            if any(not np.array_equal(a, b) for a, b in zip(found, parameters, strict=True)):
                raise InputError(
                    f"{draft.path}: {node_label(reader)} has another scale or zero point than the "
                    f"quantizer of its codes, {node_label(quant)}"
                )
            old = reader.output[0]
            draft.nodes.remove(reader)
            if first:  # the pair keeps the name of its values
                draft.rename(old, tensor)
                draft.rename(tensor, old)
                quant.output[0] = tensor = old
                first = False
            else:
                draft.rename(old, tensor)
        elif reader.op_type in MOVERS:
            _dequantized(draft, reader.output[0], parameters, quant)


def _stored(draft: Draft, node: onnx.NodeProto) -> None:
    """Convert DequantizeLinear of stored codes, or of an image that comes as bytes."""
    scale, zero = _parameters(draft, node)
    source = node.input[0]
    if source in draft.constants:
        codes = draft.constants[source]
        kind = _kind(draft, node, codes.dtype)
        step, shift = (_along(one, node, codes.ndim) for one in (scale, zero))
        values = (codes.astype(np.float64) - shift) * step.astype(np.float64)
        if kind[0] > 8:  # a bias: only its values are needed
            draft.constants[node.output[0]] = values
            draft.nodes.remove(node)
            return
        stored = draft.constant(values.astype(np.float32), f"{node.output[0]}.values")
        _read_values(draft, node.output[0], stored)
        if draft.wiring.readers(node.output[0]):
            draft.replace(node, _quant(draft, node, stored, node.output[0], step, shift, kind))
        else:
            draft.nodes.remove(node)
    elif source == draft.image and scale.size == 1:
        centred = draft.name(f"{node.output[0]}.centred")
        names = [
            draft.constant(np.float32(one.item()), f"{node.output[0]}.{what}")
            for what, one in (("zero", zero), ("scale", scale))
        ]
        draft.replace(
            node,
            helper.make_node("Sub", [source, names[0]], [centred], name=f"{node.name}.centred"),
            helper.make_node("Mul", [centred, names[1]], [node.output[0]], name=node.name),
        )
    else:
        raise InputError(
            f"{draft.path}: {node_label(node)} dequantizes a tensor that no QuantizeLinear "
            "wrote; a file whose layers are already integer operators needs no lowering (check "
            "it with `qadtr inspect`)"
        )


def _read_values(draft: Draft, codes: str, values: str) -> None:
    """Make operators that take stored codes as parameters read their values."""
    for reader in draft.wiring.readers(codes):
        if reader.op_type in PARAMETRIC:
            first, *others = reader.input
            reader.input[:] = [first, *(values if name == codes else name for name in others)]
