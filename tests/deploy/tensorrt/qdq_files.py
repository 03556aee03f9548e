"""Small Q/DQ files as the target ``tensorrt`` writes them, and their parts to break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.lowering import lower
from tests.export.small_qonnx import small_qonnx

Change = Callable[[onnx.ModelProto], None]


def exported(folder: Path, bits: int = 4, target: str = "tensorrt") -> Path:
    """A small network, exported by this project."""
    qonnx = folder / f"small-{bits}.qonnx"
    onnx.save(small_qonnx(np.random.default_rng(5), bits), qonnx)
    return lower(qonnx, folder / f"{target}-{bits}.onnx", target=target).path


def changed(path: Path, change: Change) -> bytes:
    model = onnx.load(path)
    change(model)
    return bytes(model.SerializeToString())


def _named(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == operator)


def _stored(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _exchange(model: onnx.ModelProto, name: str, values: np.ndarray | np.generic) -> None:
    _stored(model, name).CopyFrom(numpy_helper.from_array(np.asarray(values), name))


def uint8_zero_point(model: onnx.ModelProto) -> None:
    name = _named(model, "QuantizeLinear").input[2]
    _exchange(model, name, np.uint8(0))


def shifted_zero_point(model: onnx.ModelProto) -> None:
    _exchange(model, _named(model, "QuantizeLinear").input[2], np.int8(1))


def shifted_zero_point_in_int32_data(model: onnx.ModelProto) -> None:
    name = _named(model, "QuantizeLinear").input[2]
    _stored(model, name).CopyFrom(helper.make_tensor(name, TensorProto.INT8, [], [3]))


def empty_zero_point(model: onnx.ModelProto) -> None:
    _stored(model, _named(model, "QuantizeLinear").input[2]).raw_data = b""


def one_shifted_channel(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            zero = numpy_helper.to_array(_stored(model, node.input[2]))
            if zero.size > 1:
                _exchange(model, node.input[2], np.eye(1, zero.size, 2, dtype=np.int8)[0])
                return
    raise AssertionError("no per-channel scale")


def no_zero_point(model: onnx.ModelProto) -> None:
    del _named(model, "QuantizeLinear").input[2]


def computed_zero_point(model: onnx.ModelProto) -> None:
    node = _named(model, "QuantizeLinear")
    zero = numpy_helper.from_array(np.asarray(0, np.uint8), "z")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["computed"], value=zero))
    node.input[2] = "computed"


def unsigned_weights(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4:
            _exchange(model, tensor.name, numpy_helper.to_array(tensor).view(np.uint8))
            return
    raise AssertionError("no weights")


def unsigned_value(model: onnx.ModelProto) -> None:
    name = _named(model, "QuantizeLinear").output[0]
    model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))


def unsigned_image(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def cast_to_uint8(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["images"], ["c"], to=TensorProto.UINT8))


def external_weights(model: onnx.ModelProto) -> None:
    tensor = next(one for one in model.graph.initializer if len(one.dims) == 4)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")
    tensor.ClearField("raw_data")


def subgraph(model: onnx.ModelProto) -> None:
    empty = helper.make_graph([], "g", [], [])
    node = helper.make_node("If", ["c"], ["o"], then_branch=empty, else_branch=empty)
    model.graph.node.append(node)


def function(model: onnx.ModelProto) -> None:
    made = helper.make_function("local", "F", ["x"], ["y"], [], [helper.make_opsetid("", 13)])
    model.functions.append(made)


def other_name(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "scores"


def open_height(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"


BROKEN: dict[Change, str] = {
    uint8_zero_point: "is uint8",
    shifted_zero_point: "is not 0",
    shifted_zero_point_in_int32_data: "is not 0",
    empty_zero_point: "is not 0",
    one_shifted_channel: "is not 0",
    no_zero_point: "no zero point",
    computed_zero_point: "tensor of uint8",
    unsigned_weights: "is uint8",
    unsigned_value: "is uint8",
    unsigned_image: "is uint8",
    cast_to_uint8: "gives uint8",
    external_weights: "lies in another file",
    subgraph: "subgraph",
    function: "defines functions",
    other_name: "inputs and outputs",
    open_height: "numbers for H",
}
"""Ways to break a file for TensorRT, and what the error says."""
