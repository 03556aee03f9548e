"""The shape of every tensor, and numbers where a file computes shapes from shapes.

Quantizers are unknown to ONNX's shape inference; in a copy of the graph they are Identity.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from deploy.core.errors import InputError
from export.canonical.draft import Draft
from export.canonical.operators import QUANTIZERS

MOST_ROUNDS = 64
"""Shapes that are computed from shapes that are computed …, at most."""


def infer(draft: Draft) -> None:
    """Find all shapes, folding what depends on shapes alone.

    Raises:
        InputError: ONNX's shape inference fails.
    """
    for _ in range(MOST_ROUNDS):
        if all(_known(draft, name) for node in draft.nodes for name in node.output if name):
            break
        before = dict(draft.shapes)
        draft.shapes.update(_inferred(draft))
        if not draft.fold() and draft.shapes == before:
            break
    draft.live()


def _known(draft: Draft, name: str) -> bool:
    shape = draft.shapes.get(name, ())
    return bool(shape) and all(side > 0 for side in shape)


def _inferred(draft: Draft) -> dict[str, tuple[int, ...]]:
    nodes = []
    for node in draft.nodes:
        if node.op_type in QUANTIZERS:
            node = helper.make_node("Identity", [node.input[0]], [node.output[0]])
        nodes.append(node)
    image = helper.make_tensor_value_info(
        draft.image, draft.image_type, list(draft.shapes[draft.image])
    )
    output = helper.make_value_info(
        draft.output, helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    )
    stored = [numpy_helper.from_array(value, name) for name, value in draft.constants.items()]
    graph = helper.make_graph(nodes, "shapes", [image], [output], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", draft.opset)])
    try:
        found = shape_inference.infer_shapes(model, data_prop=True)
    except (RuntimeError, ValueError) as error:  # onnx's InferenceError has no public base
        raise InputError(f"{draft.path}: its shapes contradict each other: {error}") from error
    return {value.name: _shape(value) for value in (*found.graph.value_info, *found.graph.output)}


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(max(0, dim.dim_value) for dim in value.type.tensor_type.shape.dim)
