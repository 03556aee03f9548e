"""Rewrite operators that have several forms in one: padding, pools, reshapes, no-ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.canonical.draft import Draft
from export.graph import attributes_of

NOTHING = ("Dropout", "Identity")
RESHAPES = ("Squeeze", "Unsqueeze")
WINDOWS = ("AveragePool", "Conv", "MaxPool")


def write_plainly(draft: Draft) -> None:
    """Rewrite the nodes that have a simpler form."""
    for node in list(draft.nodes):
        if node.op_type in NOTHING or _is_float_cast(node, draft):
            draft.nodes.remove(node)
            draft.rename(node.output[0], node.input[0])
        elif node.op_type in RESHAPES or (
            node.op_type == "Flatten" and attributes_of(node).get("axis", 1) != 1
        ):
            _as_reshape(node, draft)
        elif node.op_type in WINDOWS:
            _windows(node, draft)
        elif node.op_type == "GlobalMaxPool":
            _global_max(node, draft)


def _is_float_cast(node: onnx.NodeProto, draft: Draft) -> bool:
    """Whether a Cast changes no number: to float, of float or of the image's bytes."""
    if node.op_type != "Cast" or attributes_of(node).get("to") != TensorProto.FLOAT:
        return False
    maker = draft.wiring.producer(node.input[0])
    return maker is None or maker.op_type != "Cast"


def _as_reshape(node: onnx.NodeProto, draft: Draft) -> None:
    shape = draft.shapes.get(node.output[0], ())
    if shape and all(shape):
        target = draft.constant(np.array(shape, np.int64), f"{node.output[0]}.shape")
        names = [node.input[0], target]
        draft.replace(node, helper.make_node("Reshape", names, [node.output[0]], name=node.name))


def _windows(node: onnx.NodeProto, draft: Draft) -> None:
    """Write auto_pad as numbers; drop ceil_mode if it has no effect or padding replaces it."""
    attributes = attributes_of(node)
    before, after = (draft.shapes.get(name, ()) for name in (node.input[0], node.output[0]))
    if len(before) != 4 or len(after) != 4 or not all((*before[2:], *after[2:])):
        return
    kernel = attributes.get("kernel_shape")
    if kernel is None:  # optional for a Conv, whose weights have it
        weights = draft.shapes.get(node.input[1]) or _stored_shape(draft, node.input[1])
        kernel = list(weights[2:])
    if len(kernel) != 2:
        return
    strides = list(attributes.get("strides", [1, 1]))
    dilations = list(attributes.get("dilations", [1, 1]))
    pads = list(attributes.get("pads", [0] * 4))
    auto = attributes.get("auto_pad", b"NOTSET")
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    missing = [
        (after[2 + i] - 1) * strides[i] + reach[i] - before[2 + i] - pads[i] - pads[2 + i]
        for i in (0, 1)
    ]
    changes: dict[str, Any] = {}
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        total = [max(0, one) for one in missing]
        less = [one // 2 for one in total]
        more = [one - half for one, half in zip(total, less, strict=True)]
        first, last = (less, more) if auto == b"SAME_UPPER" else (more, less)
        changes = {"pads": [*first, *last], "auto_pad": None}
    elif auto == b"VALID":
        changes = {"auto_pad": None}
    if attributes.get("ceil_mode", 0):
        if node.op_type == "MaxPool":  # padding never exceeds a value
            changes["pads"] = [
                *pads[:2],
                *(max(0, p + m) for p, m in zip(pads[2:], missing, strict=True)),
            ]
        if node.op_type == "MaxPool" or max(missing) <= 0:
            changes["ceil_mode"] = None
    kept = [one for one in node.attribute if one.name not in changes]
    new = [helper.make_attribute(key, value) for key, value in changes.items() if value is not None]
    del node.attribute[:]
    node.attribute.extend([*kept, *new])


def _stored_shape(draft: Draft, name: str) -> tuple[int, ...]:
    while name not in draft.constants:
        maker = draft.wiring.producer(name)
        if maker is None:
            return ()
        name = maker.input[0]
    return draft.constants[name].shape


def _global_max(node: onnx.NodeProto, draft: Draft) -> None:
    shape = draft.shapes.get(node.input[0], ())
    if len(shape) == 4 and all(shape[2:]):
        draft.replace(
            node,
            helper.make_node(
                "MaxPool",
                [node.input[0]],
                [node.output[0]],
                name=node.name,
                kernel_shape=list(shape[2:]),
                strides=[1, 1],
                pads=[0] * 4,
            ),
        )
