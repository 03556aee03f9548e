"""Damage to the structure of an ONNX file, where any field of it by chance rarely goes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import onnx
from onnx import TensorProto, helper

from tests.export.onnx_mutations import damaged

_SIZES = (0, -1, 1, 7, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63))


def onnx_changed(rng: Random, data: bytes) -> bytes:
    """The model with a field or a part of its structure changed."""
    model = onnx.load_model_from_string(data)
    if rng.randrange(2):
        return bytes(damaged(rng, model).SerializeToString())
    rng.choice(STRUCTURES)(rng, model)
    return bytes(model.SerializeToString())


def _node(rng: Random, model: onnx.ModelProto) -> onnx.NodeProto:
    return rng.choice(list(model.graph.node))


def input_size(rng: Random, model: onnx.ModelProto) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if dims:
        one = rng.choice(list(dims))
        if rng.randrange(4):
            one.dim_value = rng.choice(_SIZES)
        else:
            one.dim_param = rng.choice(("", "N", "N" * 5000))


def output_size(rng: Random, model: onnx.ModelProto) -> None:
    for value in (*model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if rng.randrange(2):
                dim.dim_value = rng.choice(_SIZES)


def tensor_size(rng: Random, model: onnx.ModelProto) -> None:
    stored = [one for one in model.graph.initializer if one.dims]
    if stored:
        one = rng.choice(stored)
        one.dims[rng.randrange(len(one.dims))] = rng.choice(_SIZES)
        if rng.randrange(2):
            one.ClearField("raw_data")


def tensor_type(rng: Random, model: onnx.ModelProto) -> None:
    if model.graph.initializer:
        one = rng.choice(list(model.graph.initializer))
        one.data_type = rng.choice([*range(24), 99, -1])
        if rng.randrange(2):
            one.raw_data = bytes(8) * (1 + len(one.raw_data))


def attribute_numbers(rng: Random, model: onnx.ModelProto) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if nodes:
        node = rng.choice(nodes)
        one = rng.choice(list(node.attribute))
        wide = [rng.choice(_SIZES) for _ in range(rng.choice((0, 1, 2, 4, 4, 9)))]
        values = (rng.choice(_SIZES), wide, wide or [0], 1.5, "text", [1.5], float("nan"))
        one.CopyFrom(
            helper.make_attribute(one.name, rng.choice(values[:2] if wide else values[3:]))
        )


def large_attribute(rng: Random, model: onnx.ModelProto) -> None:
    """Sizes that are right for the operator and far too large for its images."""
    wanted = {"pads": 4, "kernel_shape": 2, "strides": 2, "dilations": 2, "output_shape": 2}
    nodes = [node for node in model.graph.node if node.op_type.endswith(("Conv", "Pool", "Pad"))]
    if nodes:
        node, name = rng.choice(nodes), rng.choice(sorted(wanted))
        for old in [one for one in node.attribute if one.name == name]:
            node.attribute.remove(old)
        size = rng.choice((3000, 2**16, 2**30))
        node.attribute.append(helper.make_attribute(name, [size] * wanted[name]))


def without_initializers(rng: Random, model: onnx.ModelProto) -> None:
    for _ in range(rng.choice((1, 1, len(model.graph.initializer)))):
        if model.graph.initializer:
            del model.graph.initializer[rng.randrange(len(model.graph.initializer))]


def cycle(rng: Random, model: onnx.ModelProto) -> None:
    node, other = _node(rng, model), _node(rng, model)
    if node.input and other.output:
        node.input[rng.randrange(len(node.input))] = other.output[0]


def itself(rng: Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    if node.input and node.output:
        node.output[0] = node.input[0]


def subgraph(rng: Random, model: onnx.ModelProto) -> None:
    """A branch that holds the whole graph, or a hundred branches inside of each other."""
    inner = onnx.GraphProto()
    inner.CopyFrom(model.graph)
    if rng.randrange(2):
        inner = helper.make_graph([], "empty", [], [])
        for depth in range(rng.choice((3, 25))):
            node = helper.make_node("If", ["c"], [f"y{depth}"], then_branch=inner)
            inner = helper.make_graph([node], f"g{depth}", [], [])
    kind = rng.choice(("If", "Loop", "Scan"))
    name = {"If": "then_branch"}.get(kind, "body")
    node = helper.make_node(kind, [model.graph.input[0].name], ["branched"], **{name: inner})
    model.graph.node.insert(rng.randrange(len(model.graph.node) + 1), node)


def function(rng: Random, model: onnx.ModelProto) -> None:
    """A function of the file's own in place of an operator, one that may call itself."""
    node = _node(rng, model)
    domain = rng.choice(("", "local", node.domain))
    calls = rng.choice((node.op_type, "Relu"))
    body = helper.make_node(calls, ["x"], ["y"], domain=domain if calls == node.op_type else "")
    opsets = [helper.make_opsetid("", 17)]
    made = helper.make_function(domain, node.op_type, ["x"], ["y"], [body], opsets)
    model.functions.extend([made] * rng.choice((1, 1, 2)))
    node.domain = domain


def outside(rng: Random, model: onnx.ModelProto) -> None:
    if model.graph.initializer:
        one = rng.choice(list(model.graph.initializer))
        one.ClearField("raw_data")
        one.data_location = TensorProto.EXTERNAL
        for key, values in (
            (
                "location",
                ("../../etc/passwd", "/etc/passwd", "model.onnx", "integer.onnx", "\0", ""),
            ),
            ("offset", ("0", "-1", "9" * 30, "x")),
            ("length", ("8", "-1", "9" * 5000, "1e3")),
        ):
            if rng.randrange(4):
                one.external_data.add(key=key, value=rng.choice(values))


def sparse(rng: Random, model: onnx.ModelProto) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [2], [1.0, 2.0])
    places = helper.make_tensor("", TensorProto.INT64, [2], [0, 2**40])
    size = [rng.choice(_SIZES)] * 2
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, size))


def opset(rng: Random, model: onnx.ModelProto) -> None:
    version = rng.choice((-1, 0, 1, 6, 9, 12, 13, 25, 99, 2**62))
    if model.opset_import and rng.randrange(2):
        model.opset_import[0].version = version
    else:
        domain = rng.choice(("", "ai.onnx.ml", "com.microsoft", "x\x9b"))
        model.opset_import.append(helper.make_opsetid(domain, version))


def name(rng: Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    new = rng.choice(("", "\x9b31m", "é\u202e", "a\nb", "x" * 5000, "../x"))
    match rng.randrange(4):
        case 0:
            node.name = new
        case 1:
            node.op_type = new
        case 2:
            node.domain = new
        case _ if node.output:
            node.output[0] = new


def many(rng: Random, model: onnx.ModelProto) -> None:
    """A tensor that is doubled over and over: 2^40 ways lead back to it."""
    read = model.graph.input[0].name
    for i in range(40):
        model.graph.node.insert(i, helper.make_node("Add", [read, read], [f"twice{i}"]))
        read = f"twice{i}"
    model.graph.node[40].input[0] = read


def kind(rng: Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    kinds = ("Conv", "Gemm", "MatMul", "Reshape", "Resize", "Tile", "Expand", "ConstantOfShape")
    more = ("Relu", "Quant", "QuantizeLinear", "DequantizeLinear", "Constant", "Identity", "Pad")
    node.op_type = rng.choice((*kinds, *more, "GlobalAveragePool", "Add", "Mul", "QLinearConv"))


STRUCTURES: tuple[Callable[[Random, onnx.ModelProto], None], ...] = (
    *(input_size, output_size, tensor_size, tensor_type, attribute_numbers, large_attribute),
    *(without_initializers, cycle, itself, subgraph, function, outside, sparse, opset, name, many),
    kind,
)
