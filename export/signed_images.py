"""A copy of a file with int8 images that takes the image's bytes instead.

TensorRT's file takes byte - 128 as int8, but the ONNX Runtime engine passes bytes. To run the same
graph there, the copy begins with Cast → Sub 128 → Cast, exact in int32. Nothing else is changed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import InputError
from deploy.core.files import write_atomic
from export.graph import graph_inputs
from export.graph_builder import model_bytes
from export.reading import read_model

_CODES = "qadtr/image_codes"


def write_with_bytes(path: Path, out: Path) -> Path:
    """Write the copy atomically to ``out``; returns ``out``.

    Raises:
        InputError: the file is damaged, or does not take one int8 input.
    """
    model = read_model(path)
    inputs = graph_inputs(model)
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != TensorProto.INT8:
        raise InputError(f"{path}: expected one input of int8 images")
    image = inputs[0]
    for node in model.graph.node:
        node.input[:] = [_CODES if name == image.name else name for name in node.input]
    image.type.tensor_type.elem_type = TensorProto.UINT8
    centre = numpy_helper.from_array(np.array(128, np.int32), "qadtr/centre")
    model.graph.initializer.append(centre)
    front = (
        helper.make_node("Cast", [image.name], ["qadtr/wide"], to=TensorProto.INT32),
        helper.make_node("Sub", ["qadtr/wide", centre.name], ["qadtr/centred"]),
        helper.make_node("Cast", ["qadtr/centred"], [_CODES], to=TensorProto.INT8),
    )
    nodes: list[onnx.NodeProto] = [*front, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    write_atomic(out, model_bytes(model))
    return out
