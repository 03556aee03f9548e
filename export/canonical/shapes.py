"""Find the shape of every tensor, and fold shapes that a file computes from shapes.

ONNX's shape inference does not know quantizers; in a copy of the graph they are Identity.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from deploy.core.errors import InputError
from export.canonical.draft import Draft
from export.canonical.operators import QUANTIZERS
from export.reading import require_sizes

MOST_ROUNDS = 64
"""Largest depth of shapes that are computed from other computed shapes."""


def infer(draft: Draft) -> None:
    """Find all shapes, folding tensors that depend only on shapes. The inferred shapes are used,
    not those that the file declares.

    Raises:
        InputError: ONNX's shape inference fails, or a tensor would be larger than any network's.
    """
    for _ in range(MOST_ROUNDS):
        before = dict(draft.shapes)
        found = _inferred(draft)
        require_sizes(draft.path, found, draft.shapes[draft.image][1:])
        draft.shapes.update({n: s for n, s in found.items() if n not in before or _whole(s)})
        known = all(_known(draft, name) for node in draft.nodes for name in node.output if name)
        if known or (not draft.fold() and draft.shapes == before):
            break
    draft.live()


def _known(draft: Draft, name: str) -> bool:
    return _whole(draft.shapes.get(name, ()))


def _whole(shape: tuple[int, ...]) -> bool:
    return bool(shape) and all(side > 0 for side in shape)


def _inferred(draft: Draft) -> dict[str, tuple[int, ...]]:
    """The shapes of the nodes' outputs; 0 for an unknown length."""
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
    return shapes_of(model, draft.path)


def shapes_of(model: onnx.ModelProto, path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes that ONNX infers for a graph with only its own operators; 0 if unknown.

    Raises:
        InputError: the shapes contradict each other.
    """
    try:
        found = shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # onnx's InferenceError has no public base
        raise InputError(f"{path}: its shapes contradict each other: {error}") from error
    return {value.name: _shape(value) for value in (*found.graph.value_info, *found.graph.output)}


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(max(0, dim.dim_value) for dim in value.type.tensor_type.shape.dim)
