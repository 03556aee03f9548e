"""Indices into tables of results: int32 tensors that are computed from codes without rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from export.graph import node_label, type_name
from export.reference.errors import UnsupportedGraph
from export.reference.operands import Constants, Function, Operands


def index_cast(node: onnx.NodeProto) -> str:
    """Return the tensor of codes that a ``Cast`` to int32 converts to indices of the same value.

    Raises:
        UnsupportedGraph: it casts to another type.
    """
    to = Operands(node, {}).attributes(to=None, saturate=1, round_mode="up")["to"]
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
    operands = Operands(node, constants)
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
