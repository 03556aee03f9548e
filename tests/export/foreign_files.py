"""Small classifiers as somebody else would write them: ONNX files of floats, bytes or Q/DQ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 10


def foreign(
    path: Path,
    *,
    shape: Sequence[int | str] = ("N", 3, 16, 16),
    kind: int = TensorProto.FLOAT,
    channels_last: bool = False,
    after: Sequence[onnx.NodeProto] = (),
    outputs: Sequence[str] = ("y",),
    output_type: int = TensorProto.FLOAT,
    more_inputs: Sequence[onnx.ValueInfoProto] = (),
    weights: np.ndarray | None = None,
    opset: int = 17,
    domains: Sequence[str] = (),
    names: tuple[str, str] = ("x", "y"),
) -> Path:
    """Write Conv, Relu, mean, Gemm; ``after`` are nodes behind the logits ``y``.

    Args:
        shape: of the input.
        kind: of the input and of all that is computed; uint8 is cast to float first.
        channels_last: the input is N×H×W×C.
        weights: of the convolution, 8×C×3×3.
        names: of the input and the logits.
    """
    rng = np.random.default_rng(4)
    channels = int(shape[3] if channels_last else shape[1])
    image, logits = names
    if weights is None:
        weights = rng.normal(size=(8, channels, 3, 3))
    computed = TensorProto.FLOAT if kind == TensorProto.UINT8 else kind
    dtype = helper.tensor_dtype_to_np_dtype(computed)
    stored = {
        "w": weights,
        "linear": rng.normal(size=(8, CLASSES)),
        "bias": rng.normal(size=CLASSES),
    }
    nodes, read = [], image
    if kind == TensorProto.UINT8:
        nodes.append(helper.make_node("Cast", [read], ["cast"], to=TensorProto.FLOAT))
        read = "cast"
    if channels_last:
        nodes.append(helper.make_node("Transpose", [read], ["first"], perm=[0, 3, 1, 2]))
        read = "first"
    nodes += [
        helper.make_node("Conv", [read, "w"], ["maps"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "linear", "bias"], [logits]),
        *after,
    ]
    infos = [
        helper.make_tensor_value_info(name, computed if name == logits else output_type, None)
        for name in outputs
    ]
    inputs = [helper.make_tensor_value_info(image, kind, list(shape)), *more_inputs]
    tensors = [numpy_helper.from_array(np.asarray(v, dtype), n) for n, v in stored.items()]
    graph = helper.make_graph(nodes, "network", inputs, infos, tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(model, path)
    return path
