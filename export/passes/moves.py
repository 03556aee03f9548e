"""Concat, Slice, Pad and nearest Resize of codes, which change no value.

Joined tensors must have one scale and one zero point; padding gets the code of its value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from export.graph import attributes_of
from export.passes.rule import Codes, Context, Refusal

OPERATORS = ("Concat", "Slice", "Pad", "Resize")


@dataclass(frozen=True, kw_only=True)
class CodeMove:
    """One of :data:`OPERATORS` on codes.

    Attributes:
        parts: the codes that it reads.
        operator: its name.
        constants: the stored inputs after them, as in the integer graph.
        attributes: of the node.
        border: the value that a Pad writes; 0 for other operators.
    """

    parts: tuple[Codes, ...]
    operator: str
    constants: tuple[Any, ...]
    attributes: dict[str, Any]
    border: float = 0.0


def code_move(node: onnx.NodeProto, context: Context) -> CodeMove:
    """Match a node that joins, cuts, pads or repeats codes."""
    if node.op_type not in OPERATORS:
        raise Refusal(f"{node.op_type} is none of {', '.join(OPERATORS)}", other=True)
    attributes = attributes_of(node)
    rank = len(context.source.shapes.get(node.input[0], ()))
    if node.op_type == "Concat":
        parts = tuple(context.codes_of(name, "the part") for name in node.input)
        first = parts[0]
        if rank == 0 or attributes.get("axis", 0) % rank != 1:
            raise Refusal("only channels (axis 1) are joined")
        for other in parts[1:]:
            if (other.scale, other.zero_point) != (first.scale, first.zero_point):
                raise Refusal(
                    "its parts must share one scale and zero point, but they have "
                    + " and ".join(f"{one.scale} ({one.zero_point})" for one in (first, other))
                )
        return CodeMove(parts=parts, operator="Concat", constants=(), attributes={"axis": 1})
    codes = context.codes[node.input[0]]
    stored = [context.source.constants.get(name) if name else None for name in node.input[1:]]
    if node.op_type == "Slice":
        axes = None if len(stored) < 3 or stored[2] is None else stored[2].tolist()
        steps = [1] if len(stored) < 4 or stored[3] is None else stored[3].tolist()
        if stored[0] is None or stored[1] is None or axes is None or set(steps) != {1}:
            raise Refusal("its bounds are not stored, or it skips")
        if any(axis % max(rank, 1) == 0 for axis in axes):
            raise Refusal("it slices the batch")
        constants = tuple(np.asarray(one, np.int64) for one in stored[:3])
        return CodeMove(parts=(codes,), operator="Slice", constants=constants, attributes={})
    if node.op_type == "Pad":
        amounts = stored[0] if stored else None
        if attributes.get("mode", b"constant") != b"constant" or amounts is None:
            raise Refusal("only constant padding by stored amounts is supported")
        if amounts[0] or amounts[len(amounts) // 2] or (amounts < 0).any() or len(node.input) > 3:
            raise Refusal(f"its amounts {amounts.tolist()} pad the batch, or crop")
        value = stored[1] if len(stored) > 1 else None
        if len(node.input) > 2 and node.input[2] and (value is None or value.size != 1):
            raise Refusal("its value is not stored")
        return CodeMove(
            parts=(codes,),
            operator="Pad",
            constants=(np.asarray(amounts, np.int64),),
            attributes={"mode": "constant"},
            border=0.0 if value is None else float(value.item()),
        )
    factors = stored[1] if len(stored) > 1 else None
    mode = attributes.get("mode", b"nearest")
    plain = (
        attributes.get("coordinate_transformation_mode", b"half_pixel") == b"asymmetric"
        and attributes.get("nearest_mode", b"round_prefer_floor") == b"floor"
    )
    if mode != b"nearest" or not plain or factors is None or rank != 4:
        raise Refusal("only nearest resizing by stored factors (asymmetric, floor) is supported")
    if factors.tolist()[:2] != [1, 1] or (factors != np.rint(factors)).any():
        raise Refusal(
            f"its factors {factors.tolist()} are not whole numbers, or not those of height "
            "and width"
        )
    return CodeMove(
        parts=(codes,),
        operator="Resize",
        constants=(factors.astype(np.float32),),
        attributes={
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
    )


def write_code_move(found: CodeMove, layer: str, context: Context) -> tuple[Codes, str]:
    """Write the same operator on uint8."""
    first = found.parts[0]
    border = int(np.rint(found.border / float(first.scale))) + first.zero_point
    return _written(found, layer, context, np.uint8(border), border)


def write_value_move(found: CodeMove, layer: str, context: Context) -> tuple[Codes, str]:
    """Write the same operator on values, in a Q/DQ graph."""
    first = found.parts[0]
    border = int(np.rint(found.border / float(first.scale))) + first.zero_point
    return _written(found, layer, context, np.float32(found.border), border)


def _written(
    found: CodeMove, layer: str, context: Context, value: np.generic, border: int
) -> tuple[Codes, str]:
    builder = context.builder
    inputs = [codes.name for codes in found.parts]
    low = min(codes.low for codes in found.parts)
    high = max(codes.high for codes in found.parts)
    if found.operator == "Resize":
        inputs.append("")
    inputs += [
        builder.constant(one, f"{layer}.{found.operator.lower()}") for one in found.constants
    ]
    if found.operator == "Pad":
        low, high = min(low, border), max(high, border)
        inputs.append(builder.constant(value, "b"))
    name = builder.add(found.operator, inputs, layer, **found.attributes)
    codes = replace(found.parts[0], name=name, low=low, high=high)
    return codes, f"{found.operator} of codes"
