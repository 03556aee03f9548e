"""Make an engine of the protocol show the codes between its nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.files import write_atomic
from export.reading import graph_inputs, input_dims, read_model
from export.reference import IntegerReference


def write_probe(
    path: Path, probe: Path, truth: IntegerReference, sample: NDArray[np.uint8]
) -> dict[str, int]:
    """Write a copy of the model whose one output is [logits | all codes], and give the widths.

    Each tensor of codes is cast to float32, which holds 0…255 exactly, and flattened. One float
    output is what every engine of the protocol can give, so that no engine needs a side door.

    Args:
        path: the model.
        probe: where the copy goes.
        truth: the reference of the model, which names the tensors.
        sample: one image, uint8 1×3×H×W, from which the widths follow.

    Returns:
        Values of an image by tensor name, in the order of the output's columns.

    Raises:
        InputError: the model does not give a tensor that the reference has.
    """
    model = read_model(path)
    made = {name for node in model.graph.node for name in node.output}
    absent = [name for name in truth.code_tensors if name not in made]
    if absent:
        raise InputError(
            f"{path} does not give the tensors {', '.join(absent[:5])} that the reference "
            f"{truth.path} has: the files are not of one network"
        )
    logits, codes = next(truth.batches(sample))
    widths = {name: codes[name].size for name in truth.code_tensors}
    parts = [_fresh("logits", made)]
    old = model.graph.output[0].name
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == old:
                node.output[index] = parts[0]
    for index, name in enumerate(widths):
        number, flat = _fresh(f"number{index}", made), _fresh(f"flat{index}", made)
        model.graph.node.append(
            onnx.helper.make_node("Cast", [name], [number], to=onnx.TensorProto.FLOAT)
        )
        model.graph.node.append(onnx.helper.make_node("Flatten", [number], [flat], axis=1))
        parts.append(flat)
    model.graph.node.append(onnx.helper.make_node("Concat", parts, [old], axis=1))
    batch = input_dims(graph_inputs(model)[0])[0]
    total = logits.shape[1] + sum(widths.values())
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(old, onnx.TensorProto.FLOAT, [batch or "N", total])
    )
    write_atomic(probe, model.SerializeToString())
    return widths


def _fresh(wanted: str, taken: set[str]) -> str:
    name = f"parity/{wanted}"
    while name in taken:
        name += "_"
    taken.add(name)
    return name
