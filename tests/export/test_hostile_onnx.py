"""Truncated, damaged and hostile ONNX files: one clear error each, whoever reads them.

Every case is tried on what reads files from elsewhere: the lowering of a QONNX file, the integer
reference, and the certificate (`qadtr inspect`, the engine in a process of its own).
"""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import InputError, QadtrError
from export.certificate import certify
from export.graph_builder import QONNX
from export.lowering import lower, lower_float
from export.reading import require_sizes
from export.reference import IntegerReference, QdqReference
from qadtr.__main__ import main
from tests.export.integer_graphs import residual_graph
from tests.export.onnx_mutations import damaged
from tests.export.small_qonnx import small_qonnx

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)


@cache
def integer_model() -> onnx.ModelProto:
    return residual_graph(np.random.default_rng(0), bits=4).model()


@cache
def qonnx_model() -> onnx.ModelProto:
    return small_qonnx(np.random.default_rng(0))


@cache
def qdq_model() -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "q.onnx"
        path.write_bytes(qonnx_model().SerializeToString())
        return onnx.load(lower(path, Path(folder) / "qcdq.onnx", target="qcdq").path)


def reads(reader: str, path: Path) -> None:
    if reader == "lower":
        lower(path, path.parent / "lowered.onnx")
    elif reader == "lower_float":
        lower_float(path, path.parent / "lowered.onnx")
    elif reader == "reference":
        IntegerReference(path).run(IMAGES)
    elif reader == "qdq reference":
        QdqReference(path).run(IMAGES)
    else:
        certify(path, isolated=True)


def model_for(reader: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    models = {"lower": qonnx_model, "lower_float": qonnx_model, "qdq reference": qdq_model}
    model.CopyFrom(models.get(reader, integer_model)())
    return model


def initializer(model: onnx.ModelProto, rank: int = 4) -> onnx.TensorProto:
    return next(one for one in model.graph.initializer if len(one.dims) == rank)


# ------------------------------------------------------------------ damage with a name


def _outside(model: onnx.ModelProto) -> None:
    tensor = initializer(model)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def _absolute(model: onnx.ModelProto) -> None:
    _outside(model)
    initializer(model).external_data[0].value = "/etc/passwd"


def _giant_tensor(model: onnx.ModelProto) -> None:
    tensor = initializer(model)
    tensor.ClearField("dims")
    tensor.dims.extend([2**31, 2**31])


def _giant_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**62


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def _missing(model: onnx.ModelProto) -> None:
    del model.graph.initializer[:]


def _stored_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _given_twice(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = model.graph.node[0].output[0]


def _input_twice(model: onnx.ModelProto) -> None:
    model.graph.input.append(model.graph.input[0])


def _no_such_type(model: onnx.ModelProto) -> None:
    initializer(model).data_type = 4711


def _text_weights(model: onnx.ModelProto) -> None:
    tensor = initializer(model)
    count = int(np.prod(tensor.dims))
    tensor.ClearField("raw_data")
    tensor.data_type = TensorProto.STRING
    tensor.string_data.extend([b"x"] * count)


def _no_such_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 9999


def _no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def _opset_twice(model: onnx.ModelProto) -> None:
    model.opset_import.append(model.opset_import[0])


def _no_such_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 9999


def _no_ir(model: onnx.ModelProto) -> None:
    model.ClearField("ir_version")


def _no_output(model: onnx.ModelProto) -> None:
    del model.graph.node[0].output[:]


def _no_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = ""


def _no_such_operator(model: onnx.ModelProto) -> None:
    model.graph.node[-1].op_type = "Explode"


def _attribute_of_no_type(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.attribute)
    node.attribute[0].ClearField("type")


def _attribute_twice(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.attribute)
    node.attribute.append(node.attribute[0])


def _no_inputs(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        del node.input[1:]


def _no_groups(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            attribute.i = 0 if attribute.name == "group" else attribute.i


def _endless_groups(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            attribute.i = 2**31 - 1 if attribute.name == "group" else attribute.i


def _vast_padding(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "pads":
                attribute.CopyFrom(helper.make_attribute("pads", [2**14] * 4))


def _no_graph(model: onnx.ModelProto) -> None:
    model.ClearField("graph")


NAMED: dict[str, Callable[[onnx.ModelProto], None]] = {
    name.removeprefix("_").replace("_", " "): damage
    for name, damage in list(globals().items())
    if name.startswith("_") and getattr(damage, "__module__", "") == __name__
}


@pytest.mark.parametrize(
    "reader", ["lower", "lower_float", "reference", "qdq reference", "certify"]
)
@pytest.mark.parametrize("damage", NAMED)
def test_named_damage_is_refused_with_one_clear_error(
    damage: str, reader: str, tmp_path: Path
) -> None:
    model = model_for(reader)
    NAMED[damage](model)
    path = tmp_path / "hostile.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(QadtrError) as caught:
        reads(reader, path)
    assert "hostile.onnx" in str(caught.value)
    assert not (tmp_path / "lowered.onnx").exists()


@pytest.mark.parametrize("reader", ["lower", "reference"])
def test_the_undamaged_models_are_read(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "good.onnx"
    path.write_bytes(model_for(reader).SerializeToString())
    reads(reader, path)


def test_graphs_nested_without_end_are_refused(tmp_path: Path) -> None:
    model = model_for("reference")
    depth = 3000
    data = b""
    for _ in range(depth):  # If node { attribute { g { node { … } } } }, innermost first
        data = _field(1, _field(5, _field(1, b"then_branch") + _field(6, data)) + _field(2, b"x"))
    path = tmp_path / "deep.onnx"
    path.write_bytes(model.SerializeToString() + _field(7, data))
    for reader in ("lower", "reference", "certify"):
        with pytest.raises(InputError, match=r"deep\.onnx"):
            reads(reader, path)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length, size = bytearray(), len(payload)
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + payload


def test_many_doubled_constants_do_not_take_for_ever(tmp_path: Path) -> None:
    """x + x, 60 times over: 2^60 ways lead to the one stored tensor."""
    nodes = [
        helper.make_node("Add", [f"c{i}", f"c{i}"], [f"c{i + 1}"], name=f"add{i}")
        for i in range(60)
    ]
    nodes.append(helper.make_node("MatMul", ["x", "c60"], ["y"], name="dense"))
    graph = helper.make_graph(
        nodes,
        "doubled",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
            helper.make_tensor_value_info("c0", TensorProto.FLOAT, [4, 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "c0")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "doubled.onnx"
    path.write_bytes(model.SerializeToString())
    (dense,) = [one for one in certify(path).failures if one.layer == "dense"]
    assert "overridable-initializer" in dense.rules


def doubled_before_a_quantizer(operator: str, times: int) -> onnx.ModelProto:
    """x + x or x - x, over and over, between the codes that a quantizer of the network reads."""
    model = model_for("lower")
    at, entered = next(
        (i, node)
        for i, node in enumerate(model.graph.node)
        if node.op_type == "Quant" and node.output[0].startswith("enter")
    )
    read = entered.input[0]
    for i in range(times):
        model.graph.node.insert(at + i, helper.make_node(operator, [read, read], [f"twice{i}"]))
        read = f"twice{i}"
    entered.input[0] = read
    return model


@pytest.mark.parametrize(
    ("operator", "said"),
    [("Sub", "more than 1,000 operations"), ("Add", "cannot be lowered to integers")],
)
def test_a_function_that_doubles_what_it_reads_is_bounded(
    operator: str, said: str, tmp_path: Path
) -> None:
    """2^40 ways lead back to the codes: refused at once; two doublings are a table of codes."""
    path = tmp_path / "doubled.onnx"
    path.write_bytes(doubled_before_a_quantizer(operator, 40).SerializeToString())
    with pytest.raises(QadtrError, match=rf"doubled\.onnx.*{said}"):
        lower(path, tmp_path / "lowered.onnx")
    path.write_bytes(doubled_before_a_quantizer(operator, 2).SerializeToString())
    assert lower(path, tmp_path / "lowered.onnx").path.is_file()


@pytest.mark.parametrize("command", [["inspect"], ["inspect", "--json"]])
def test_the_command_prints_one_line_and_no_traceback(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hostile.onnx"
    model = model_for("certify")
    _cycle(model)
    path.write_bytes(model.SerializeToString())
    assert main([*command, str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "hostile.onnx" in printed.err
    assert "Traceback" not in printed.err


def test_a_qonnx_file_is_refused_by_inspect_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    path.write_bytes(qonnx_model().SerializeToString())
    with pytest.raises(InputError, match=rf"Quant.*{QONNX}.*lower"):
        certify(path)


# ------------------------------------------------------------------ damage by chance


@pytest.mark.parametrize(
    ("reader", "tries"),
    [("reference", 150), ("qdq reference", 150), ("lower", 80), ("certify", 12)],
)
def test_what_is_damaged_is_read_or_refused(reader: str, tries: int, tmp_path: Path) -> None:
    """Read it, or refuse it with an error of ours that names the file: nothing else."""
    for seed in range(tries):
        path = tmp_path / "damaged.onnx"
        path.write_bytes(damaged(Random(seed), model_for(reader)).SerializeToString())
        try:
            reads(reader, path)
        except QadtrError as error:
            assert "damaged.onnx" in str(error), seed  # noqa: PT017 - reading it is as right


# ------------------------------------------------------------------ what would be computed


def padded(model: onnx.ModelProto, pad: int) -> onnx.ModelProto:
    """The model with one padding of its second convolution, and what it says of its shapes kept."""
    convolution = [node for node in model.graph.node if node.op_type == "Conv"][1]
    for attribute in convolution.attribute:
        if attribute.name == "pads":
            attribute.CopyFrom(helper.make_attribute("pads", [pad] * 4))
    return model


def test_a_padding_that_would_fill_the_memory_is_refused_before_anything_runs(
    tmp_path: Path,
) -> None:
    path = tmp_path / "padded.onnx"
    path.write_bytes(padded(model_for("lower"), 3000).SerializeToString())
    tracemalloc.start()
    with pytest.raises(InputError, match=r"padded\.onnx.* the shape \[1, 4, 6\d\d\d, 6\d\d\d\]"):
        lower(path, tmp_path / "lowered.onnx")
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("image", "shape", "fits"),
    [
        ((3, 8, 8), (1, 4, 1024, 1024), True),
        ((3, 8, 8), (1, 4, 1024, 1025), False),
        ((3, 8, 8), (64, 4, 1024, 1024), True),
        ((3, 224, 224), (1, 64, 1024, 1024), True),
        ((3, 224, 224), (1, 64, 1024, 1025), False),
        ((3, 32, 32), (0, 64, 0, 1 << 40), True),  # not known
    ],
)
def test_how_large_a_tensor_may_become_follows_from_the_image(
    image: tuple[int, ...], shape: tuple[int, ...], fits: bool
) -> None:
    with nullcontext() if fits else pytest.raises(InputError, match="'x' would have the shape"):
        require_sizes(Path("a.onnx"), {"x": shape}, image)
