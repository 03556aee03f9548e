"""Flatten, Reshape and Transpose of codes, which change no value.

The QONNX graph has batch 1, the integer graph any batch: a shape is written with 0 (unchanged) for
the batch and with the QONNX file's own lengths for the other dimensions.  A move that would mix
images is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from export.graph import attributes_of
from export.passes.rule import Codes, Context, Refusal

OPERATORS = ("Flatten", "Reshape", "Transpose", "Identity")


@dataclass(frozen=True, kw_only=True)
class Move:
    """One of :data:`OPERATORS` on codes, its attributes, and the shape of a Reshape."""

    codes: Codes
    operator: str
    attributes: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None


def layout(node: onnx.NodeProto, context: Context) -> Move:
    """Match a node that moves codes without changing them."""
    if node.op_type not in OPERATORS:
        raise Refusal(f"{node.op_type} is none of {', '.join(OPERATORS)}", other=True)
    attributes, shapes = attributes_of(node), context.source.shapes
    move = Move(codes=context.codes[node.input[0]], operator=node.op_type)
    if node.op_type == "Flatten":
        if attributes.get("axis", 1) != 1:
            raise Refusal(f"Flatten at axis {attributes['axis']} mixes images; expected 1")
        return replace(move, attributes={"axis": 1})
    if node.op_type == "Transpose":
        permutation = list(attributes.get("perm", []))
        if not permutation or permutation[0] != 0:
            raise Refusal(f"the permutation {permutation or 'of all axes'} moves the batch")
        return replace(move, attributes={"perm": permutation})
    if node.op_type == "Reshape":
        before, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
        if not after or not before or before[0] != after[0] or 0 in after[1:]:
            raise Refusal(
                f"the file does not state that it keeps the batch: {list(before)} → {list(after)}"
            )
        return replace(move, shape=(0, *after[1:]))
    return move


def write_layout(found: Move, layer: str, context: Context) -> tuple[Codes, str]:
    """Write the same operator on uint8; nothing for Identity."""
    codes, builder, operator = found.codes, context.builder, found.operator
    if operator == "Identity":
        return codes, ""
    inputs = [codes.name]
    if found.shape is not None:
        inputs.append(builder.constant(np.array(found.shape, np.int64), f"{layer}.shape"))
    name = builder.add(operator, inputs, layer, **found.attributes)
    return replace(codes, name=name), f"{operator} of codes"
