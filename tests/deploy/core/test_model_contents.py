"""What a model file may contain, read from its bytes alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import InputError
from deploy.core.model_contents import OPERATORS, code_tensors, require_contents
from deploy.core.onnx_operators import OnnxFile, read_onnx
from export.passes.guarantee import OnlyOperators
from export.reference import IntegerReference
from export.targets import TARGETS
from tests.export.integer_graphs import random_graph, residual_graph


@pytest.fixture
def model() -> onnx.ModelProto:
    return residual_graph(np.random.default_rng(0), bits=4).model()


def test_every_operator_that_an_export_writes_is_listed() -> None:
    for name, target in TARGETS.items():
        if name == "litert":  # no ONNX file; its test is in tests/export/test_litert.py
            continue
        (only,) = (one for one in target.guarantees if isinstance(one, OnlyOperators))
        written = {operator.replace("::", ".") for operator in only.operators}
        assert written <= OPERATORS[name]


def test_the_tensors_of_codes_are_those_of_the_reference(tmp_path: Any) -> None:
    for seed in range(8):
        path = random_graph(np.random.default_rng(seed)).save(tmp_path / "m.onnx")
        found = require_contents(path.read_bytes(), "onnxruntime", "m.onnx")
        assert isinstance(found, OnnxFile)
        assert tuple(code_tensors(found, "images", "logits")) == IntegerReference(path).code_tensors


def outside(tensor: onnx.TensorProto) -> onnx.TensorProto:
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def hidden_tensor(name: str = "hidden") -> onnx.TensorProto:
    return outside(numpy_helper.from_array(np.ones(3, np.float32), name))


def constant() -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=hidden_tensor())


def in_an_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(hidden_tensor())


def in_entries_without_the_flag(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer.add(name="hidden")
    tensor.external_data.add(key="location", value="w.bin")


def in_an_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(constant())


def in_a_list_of_tensors(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="x", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(hidden_tensor())


def in_a_sparse_tensor(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "values"))
    sparse.indices.CopyFrom(hidden_tensor())


def in_a_sparse_attribute(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="x")
    attribute.sparse_tensor.values.CopyFrom(hidden_tensor())


def in_a_subgraph_of_a_subgraph(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([constant()], "inner", [], [])
    outer = helper.make_graph(
        [helper.make_node("If", ["a"], ["b"], then_branch=inner)], "o", [], []
    )
    model.graph.node.append(helper.make_node("Loop", ["n"], ["m"], body=outer))


def in_a_subgraphs_initializer(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [hidden_tensor()])
    model.graph.node.append(helper.make_node("If", ["a"], ["b"], then_branch=inner))


def in_a_list_of_graphs(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="x", type=onnx.AttributeProto.GRAPHS)
    attribute.graphs.append(helper.make_graph([], "inner", [], [], [hidden_tensor()]))


def in_a_function(model: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("d", "F", [], ["c"], [constant()], opsets))


def in_a_default_of_a_function(model: onnx.ModelProto) -> None:
    function = helper.make_function("d", "F", [], [], [], [helper.make_opsetid("", 21)])
    function.attribute_proto.add(name="x").t.CopyFrom(hidden_tensor())
    model.functions.append(function)


def in_training_information(model: onnx.ModelProto) -> None:
    model.training_info.add().initialization.initializer.append(hidden_tensor())


PLACES = [
    in_an_initializer,
    in_entries_without_the_flag,
    in_an_attribute,
    in_a_list_of_tensors,
    in_a_sparse_tensor,
    in_a_sparse_attribute,
    in_a_subgraph_of_a_subgraph,
    in_a_subgraphs_initializer,
    in_a_list_of_graphs,
    in_a_function,
    in_a_default_of_a_function,
    in_training_information,
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt", "openvino", "abacus"])
def test_data_outside_the_file_are_found(
    place: Callable[[onnx.ModelProto], None], engine: str, model: onnx.ModelProto
) -> None:
    place(model)
    with pytest.raises(InputError, match="refers to data outside the file for 'hidden'"):
        require_contents(model.SerializeToString(), engine, "m.onnx")


def test_a_second_graph_behind_the_first_is_read_too(model: onnx.ModelProto) -> None:
    # Protocol Buffers merges the two: the engine would see one graph with both.
    more = onnx.ModelProto()
    more.graph.node.append(helper.make_node("RandomUniform", [], ["r"], shape=[1]))
    with pytest.raises(InputError, match="RandomUniform"):
        require_contents(model.SerializeToString() + more.SerializeToString(), "onnxruntime", "m")
    more.graph.node.pop()
    more.graph.initializer.append(hidden_tensor())
    with pytest.raises(InputError, match="data outside"):
        require_contents(model.SerializeToString() + more.SerializeToString(), "onnxruntime", "m")


def test_an_operator_of_another_domain_is_another_operator(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "QLinearConv")
    node.domain = "com.microsoft"
    with pytest.raises(InputError, match=r"operators 'com\.microsoft\.QLinearConv'"):
        require_contents(model.SerializeToString(), "onnxruntime", "m")
    node.domain = "ai.onnx"  # the standard one's other name
    require_contents(model.SerializeToString(), "onnxruntime", "m")
    model.opset_import.append(helper.make_opsetid("somebody.else", 1))
    with pytest.raises(InputError, match=r"domains 'somebody\.else'"):
        require_contents(model.SerializeToString(), "onnxruntime", "m")


def test_what_is_no_onnx_file(model: onnx.ModelProto) -> None:
    data = model.SerializeToString()
    for broken in (b"", b"\x08\x01", data[:-40], b"\x12\x80\x80\x00ORTM" + data):
        with pytest.raises(InputError, match="not a readable ONNX file"):
            require_contents(broken, "onnxruntime", "m")
    deep = helper.make_graph([], "g", [], [])
    for _ in range(20):
        node = helper.make_node("If", ["a"], ["b"], then_branch=deep)
        deep = helper.make_graph([node], "g", [], [])
    model.graph.node.append(helper.make_node("If", ["a"], ["b"], then_branch=deep))
    with pytest.raises(ValueError, match="nested"):
        read_onnx(model.SerializeToString())


def test_a_file_of_fields_without_end_is_refused_before_they_are_all_read() -> None:
    graph = b"\x3a\x04" + b"\x0a\x02\x0a\x00"  # ModelProto.graph with one node, of one empty input
    with pytest.raises(ValueError, match="more than 4000000 fields"):
        read_onnx(b"\x08\x01" * 4_000_001 + graph)


def float_table(model: onnx.ModelProto) -> None:
    table = numpy_helper.from_array(np.zeros(256, np.float16), "table")
    model.graph.initializer.append(table)
    model.graph.node.append(helper.make_node("Gather", ["table", "images"], ["f"]))


def sparse_float_table(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "table")
    at = numpy_helper.from_array(np.zeros(1, np.int64), "at")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, at, [256]))
    model.graph.node.append(helper.make_node("Gather", ["table", "images"], ["f"]))


def sum_of_logits(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Add", ["logits", "logits"], ["f"]))


def maximum_of_logits(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("MaxPool", ["logits"], ["f"], kernel_shape=[1]))


def codes_shown_as_scales(model: onnx.ModelProto) -> None:
    scale = next(node for node in model.graph.node if node.op_type == "QLinearConv").input[1]
    model.graph.node.append(helper.make_node("Clip", [scale, "", ""], ["f"]))


def interpolation(model: onnx.ModelProto) -> None:
    node = helper.make_node("Resize", ["images", "", "", "sizes"], ["f"], mode="linear")
    model.graph.node.append(node)


def number_in_an_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Clip", ["images"], ["f"], min=0.5))


def numbers_in_an_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Pad", ["images"], ["f"], value=[0.5, 1.0]))


@pytest.mark.parametrize(
    "change",
    [
        float_table,
        sparse_float_table,
        sum_of_logits,
        maximum_of_logits,
        codes_shown_as_scales,
        interpolation,
        number_in_an_attribute,
        numbers_in_an_attribute,
    ],
)
def test_listed_operators_that_compute_in_floating_point(
    change: Callable[[onnx.ModelProto], None], model: onnx.ModelProto
) -> None:
    change(model)
    with pytest.raises(InputError, match=r"computes 'f' \((Gather|Add|MaxPool|Clip|Resize|Pad)\)"):
        require_contents(model.SerializeToString(), "onnxruntime", "m")


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt", "openvino"])
def test_nodes_are_in_the_order_in_which_they_run(engine: str, model: onnx.ModelProto) -> None:
    # Otherwise what is computed from the image would not be seen to be.
    late = [
        helper.make_node("Reshape", ["early", "shape"], ["f"]),
        helper.make_node("Clip", ["images"], ["early"]),
    ]
    model.graph.node.extend(late if engine == "onnxruntime" else [])
    if engine != "onnxruntime":
        del model.graph.node[:]
        model.graph.node.extend(late)
    with pytest.raises(InputError, match="reads 'early' before the node that computes it"):
        require_contents(model.SerializeToString(), engine, "m")


def test_an_attribute_that_is_there_twice(model: onnx.ModelProto) -> None:
    node = helper.make_node("Cast", ["images"], ["f"], to=TensorProto.UINT8)
    node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    model.graph.node.append(node)
    with pytest.raises(InputError, match="a node Cast has the same attribute twice"):
        require_contents(model.SerializeToString(), "onnxruntime", "m")
