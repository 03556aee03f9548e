"""The guarantees of a target for a finished file, checked on the file's own graph.

A rule's contract covers one layer (:mod:`export.passes.rule`); a guarantee covers the whole graph,
independently of the rules that wrote it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from export.graph import Graph, node_label, type_name
from export.passes.rule import ContractError

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_UNSIGNED = (TensorProto.UINT8, TensorProto.UINT4, TensorProto.UINT2, TensorProto.UINT16)


class Guarantee(ABC):
    """One guarantee for a whole file."""

    name: str

    @abstractmethod
    def broken_by(self, graph: Graph) -> str | None:
        """The first violation of the guarantee, as a sentence; None if there is none."""


class OnlyOperators(Guarantee):
    """Every node is one of a list of operators; ``domain::Operator`` outside of ONNX's own.

    The targets list those that the file's numpy reference defines.
    """

    name = "only operators of the target"

    def __init__(self, operators: Iterable[str]) -> None:
        self.operators = frozenset(operators)

    def broken_by(self, graph: Graph) -> str | None:
        """The first node of another operator; see :meth:`Guarantee.broken_by`."""
        for node in graph.nodes:
            standard = node.domain in ("", "ai.onnx")
            name = node.op_type if standard else f"{node.domain}::{node.op_type}"
            if name not in self.operators:
                return (
                    f"the operator of node {node_label(node)} is not one of this target: "
                    f"{', '.join(sorted(self.operators))}"
                )
        return None


class SymmetricInt8(Guarantee):
    """Every tensor of codes is int8 with zero point 0, the image included; nothing is unsigned.

    TensorRT reads a uint8 zero point as int8 and only logs it: codes above 127 would saturate, and
    the network would still run. A QuantizeLinear without a zero point gives uint8 by the standard's
    default, so it must have one.
    """

    name = "symmetric int8"

    def broken_by(self, graph: Graph) -> str | None:
        """The first unsigned or shifted tensor; see :meth:`Guarantee.broken_by`."""
        model = graph.model
        for value in (*graph.inputs, *graph.outputs, *model.graph.value_info):
            kind = value.type.tensor_type.elem_type
            if kind in _UNSIGNED:
                return f"tensor {value.name!r} is {type_name(kind)}; this target supports only int8"
        for tensor in model.graph.initializer:
            if tensor.data_type in _UNSIGNED:
                return (
                    f"stored tensor {tensor.name!r} is {type_name(tensor.data_type)}; this target "
                    "reads unsigned codes as int8"
                )
        for node in graph.nodes:
            for attribute in node.attribute:
                if attribute.name in ("to", "output_dtype") and attribute.i in _UNSIGNED:
                    return f"node {node_label(node)} gives {type_name(attribute.i)}"
            if node.op_type in _QUANTIZERS:
                zero = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
                if zero is None or zero.dtype != np.int8 or bool(zero.astype(np.int64).any()):
                    found = "none" if zero is None else f"{zero.dtype} {zero.reshape(-1)[:1]}"
                    return (
                        f"node {node_label(node)} has the zero point {found}; it must be a stored "
                        "int8 of 0"
                    )
        return None


class QuantizedOperands(Guarantee):
    """Every convolution, product, sum and pool reads dequantized codes, weights included.

    A compiler needs this to run them on codes; a residual add with one float summand would be a
    float add. Clamps come before a QuantizeLinear, never on codes.
    """

    name = "quantized operands"
    computing = ("Conv", "Gemm", "Add", "MaxPool", "GlobalAveragePool")

    def broken_by(self, graph: Graph) -> str | None:
        """The first float operand or clamp of codes; see :meth:`Guarantee.broken_by`."""
        for node in graph.nodes:
            stored = [graph.constants[name] for name in node.input if name in graph.constants]
            if node.op_type == "Add" and any(one.size == 1 for one in stored):
                continue  # part of a function, not a sum of tensors
            # A third input is the bias of Conv and Gemm, which stays float32.
            for name in node.input[:2] if node.op_type in self.computing else ():
                maker = graph.producer(name)
                if maker is None or maker.op_type != "DequantizeLinear":
                    made = "stored or an input" if maker is None else f"made by {maker.op_type}"
                    return (
                        f"node {node_label(node)} reads {name!r}, which is {made}, not by "
                        "DequantizeLinear"
                    )
            if node.op_type in ("Relu", "Clip"):
                maker = graph.producer(node.input[0])
                if maker is not None and maker.op_type == "QuantizeLinear":
                    return (
                        f"node {node_label(node)} clamps codes, but this target clamps only values"
                    )
        return None


def require_guarantees(
    guarantees: Sequence[Guarantee], model: onnx.ModelProto, what: str
) -> tuple[str, ...]:
    """Check all guarantees; returns their names.

    Raises:
        ContractError: names the first broken guarantee and its node. ``what`` names the file.
    """
    graph = Graph(model)
    for guarantee in guarantees:
        broken = guarantee.broken_by(graph)
        if broken is not None:
            raise ContractError(f"{what} breaks {guarantee.name!r}: {broken}")
    return tuple(guarantee.name for guarantee in guarantees)
