"""Give any single-input image classifier the interface that the engines take.

The engines of ``deploy`` take uint8 ``images`` and give float32 ``logits``. A file from elsewhere
has other names and often a float input; to look at what an engine makes of it, a copy gets a Cast
in front and the two names. Its own nodes stay as they are, and unnamed ones get a name, so that an
engine's profile can be told back to the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from deploy.device.errors import InputError
from export.reading import graph_inputs, input_dims, type_name

ADAPTER = "qadtr/input_cast"
"""Name of the node that is not the file's own."""

IMAGES, LOGITS = "images", "logits"


@dataclass(frozen=True, kw_only=True)
class ImageModel:
    """A model that an engine takes.

    Attributes:
        model: with input ``images`` uint8 N×3×H×W and output ``logits`` float32 N×C.
        changed: whether it differs from the file.
        input_type: element type of the file's own input, such as ``float``.
    """

    model: onnx.ModelProto
    changed: bool
    input_type: str


def with_image_interface(model: onnx.ModelProto, *, height: int, width: int) -> ImageModel:
    """Rename, cast and fix the sizes of a model's input and output where needed.

    Args:
        model: changed in place.
        height: of the images, for a model that leaves it open.
        width: likewise.

    Raises:
        InputError: not one image input and one output N×C.
    """
    inputs, outputs = graph_inputs(model), list(model.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"expected one input and one output, found inputs {[i.name for i in inputs]} and "
            f"outputs {[o.name for o in outputs]}: only image classifiers are examined"
        )
    source, target = inputs[0], outputs[0]
    kind = source.type.tensor_type.elem_type
    dims = input_dims(source)
    batch = dims[0] if dims else None
    if len(dims) != 4 or dims[1] not in (None, 3):
        raise InputError(f"input {source.name!r} has shape {list(dims)}: expected images N×3×H×W")
    sizes = (dims[2] or height, dims[3] or width)
    if sizes != (height, width):
        raise InputError(
            f"input {source.name!r} takes images of {sizes[0]}×{sizes[1]}, the sample has "
            f"{height}×{width}"
        )
    changed = _name_nodes(model)
    classes = _classes(model, target)
    if (source.name, kind, dims[1:]) != (IMAGES, TensorProto.UINT8, (3, height, width)):
        changed = True
        _feed(model, source, kind)
        shape = [batch or "N", 3, height, width]
        kept = [value for value in model.graph.input if value.name != source.name]
        del model.graph.input[:]
        model.graph.input.append(helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, shape))
        model.graph.input.extend(kept)
    if target.name != LOGITS or input_dims(target)[1:] != (classes,):
        changed = True
        _rename(model, target.name, LOGITS)
        shape = [batch or "N", classes]
        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, shape))
    return ImageModel(model=model, changed=changed, input_type=type_name(kind))


def _name_nodes(model: onnx.ModelProto) -> bool:
    taken = {node.name for node in model.graph.node if node.name}
    unnamed = [node for node in model.graph.node if not node.name]
    for node in unnamed:
        wanted = next((name for name in node.output if name), node.op_type)
        while wanted in taken:
            wanted += "_"
        node.name = wanted
        taken.add(wanted)
    return bool(unnamed)


def _classes(model: onnx.ModelProto, target: onnx.ValueInfoProto) -> int:
    dims, kind = input_dims(target), target.type.tensor_type.elem_type
    if len(dims) != 2 or dims[1] is None:
        try:
            inferred = onnx.shape_inference.infer_shapes(model).graph.output[0]
            dims = input_dims(inferred)
        except onnx.shape_inference.InferenceError as error:
            raise InputError(f"the shape of output {target.name!r} is unknown: {error}") from error
    if len(dims) != 2 or not dims[1] or kind != TensorProto.FLOAT:
        raise InputError(
            f"output {target.name!r} is {type_name(kind)}{list(dims)}: expected float logits N×C"
        )
    return dims[1]


def _feed(model: onnx.ModelProto, source: onnx.ValueInfoProto, kind: int) -> None:
    if kind == TensorProto.UINT8:
        _rename(model, source.name, IMAGES)
        return
    if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
        raise InputError(
            f"input {source.name!r} is {type_name(kind)}: expected uint8 or float images"
        )
    inner = source.name
    if inner == IMAGES:
        inner = "qadtr/float_images"
        _rename(model, IMAGES, inner)
    cast = helper.make_node("Cast", [IMAGES], [inner], name=ADAPTER, to=kind)
    model.graph.node.insert(0, cast)


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    """Rename a tensor of the main graph; the graph's own input and output lists are not touched."""
    if old == new:
        return
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if new in (*node.input, *node.output) or new in stored:
            raise InputError(
                f"the file has a tensor {new!r} inside, where {old!r} should be named so"
            )
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
