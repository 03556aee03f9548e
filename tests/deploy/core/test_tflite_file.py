"""Reading .tflite files from their bytes: what is in them, and what is refused."""

from __future__ import annotations

import struct
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from deploy.core.errors import InputError
from deploy.core.model_contents import require_contents
from deploy.core.tflite_file import read_tflite
from export.litert_builder import FILE_IDENTIFIER, LiteRtBuilder


def one_convolution(weights: np.ndarray | None = None) -> bytes:
    """images int8 1×4×4×3 → CONV_2D of two outputs, stride 2 → mean → int16 → two logits."""
    builder = LiteRtBuilder()
    rng = np.random.default_rng(0)
    scales = np.array([0.5, 0.25], np.float32)
    if weights is None:
        weights = rng.integers(-9, 9, (2, 3, 3, 3)).astype(np.int8)
    image = builder.tensor("images", (1, 4, 4, 3), "int8", scales=[np.float32(2**-6)])
    kernel = builder.constant(weights, "w", scales=scales)
    bias = builder.constant(np.array([3, -3], np.int32), "b", scales=scales * np.float32(2**-6))
    codes = builder.tensor("codes", (1, 2, 2, 2), "int8", scales=[np.float32(1)], zero_point=-128)
    options = {"strideH": 2, "strideW": 2, "fusedActivationFunction": 1}
    options["padding"] = builder.enum("Padding", "SAME")
    builder.add("CONV_2D", [image, kernel, bias], codes, **options)
    axes = builder.constant(np.array([1, 2], np.int32), "axes")
    mean = builder.tensor("mean", (1, 2), "int8", scales=[np.float32(1)], zero_point=-128)
    builder.add("MEAN", [codes, axes], mean, keepDims=False)
    wide = builder.tensor("wide", (1, 2), "int16", scales=[np.float32(1)])
    builder.add("QUANTIZE", [mean], wide)
    head = builder.constant(np.array([[1, 2], [3, -4]], np.int8), "head", scales=scales)
    sums = builder.constant(np.zeros(2, np.int64), "sums", scales=scales)
    logits = builder.tensor("logits", (1, 2), "int16", scales=[np.float32(0.01)])
    builder.add("FULLY_CONNECTED", [wide, head, sums], logits)
    return builder.bytes("small", "images", "logits", "said")


@pytest.fixture(scope="module")
def data() -> bytes:
    return one_convolution()


def test_tensors_operators_and_options_are_read(data: bytes) -> None:
    found = read_tflite(data)
    assert found.description == "said"
    assert (found.inner, found.outside) == ([], [])
    assert [node.operator for node in found.nodes] == [
        "CONV_2D", "MEAN", "QUANTIZE", "FULLY_CONNECTED",
    ]  # fmt: skip
    convolution, mean, _, _ = found.nodes
    assert convolution.options == {
        "padding": 0, "stride_w": 2, "stride_h": 2, "activation": 1, "dilation_w": 1,
        "dilation_h": 1,
    }  # fmt: skip
    assert mean.options == {"keep_dimensions": 0}
    tensors = {one.name: one for one in found.tensors}
    weights = tensors["w"]
    assert (weights.shape, weights.type, weights.scales) == ((2, 3, 3, 3), "int8", (0.5, 0.25))
    assert (weights.zero_points, weights.axis, len(weights.data or b"")) == ((0, 0), 0, 54)
    assert tensors["codes"].zero_points == (-128,) and tensors["codes"].data is None
    assert np.frombuffer(tensors["b"].data or b"", np.int32).tolist() == [3, -3]
    assert [found.tensors[number].name for number in found.outputs] == ["logits"]


def test_stored_data_are_aligned(data: bytes) -> None:
    stored = [one.data for one in read_tflite(data).tensors if one.data and any(one.data)]
    assert len(stored) == 4
    for values in stored:
        assert any(data[place:].startswith(values) for place in range(0, len(data), 16))


def test_damaged_bytes_are_refused_or_read_and_nothing_else(data: bytes) -> None:
    rng = np.random.default_rng(1)
    refused = 0
    for number in range(2000):
        damaged = bytearray(data)
        if number % 4 == 0:
            damaged = damaged[: rng.integers(8, len(damaged))]
        else:
            for place in rng.integers(8, len(damaged), rng.integers(1, 6)):
                damaged[place] = rng.integers(256)
        try:
            require_contents(bytes(damaged), "litert", "m.tflite")
        except InputError:
            refused += 1
    assert refused > 500


def words_of(data: bytes, old: tuple[int, ...], new: tuple[int, ...]) -> bytes:
    """The file with one vector of numbers, found by its content, changed; its length is kept."""
    forms = [struct.pack(f"<I{len(one)}i", len(one), *one) for one in (old, new)]
    assert data.count(forms[0]) == 1
    return data.replace(forms[0], forms[1])


@pytest.mark.parametrize("shape", [(1, 4, -4, 3), (1, 4, 0, 3), (1, 2**31 - 1, 4, 3)])
def test_a_shape_that_no_tensor_has_is_refused(shape: tuple[int, ...], data: bytes) -> None:
    with pytest.raises(ValueError, match=r"the tensor 'images' has the shape \[1, "):
        read_tflite(words_of(data, (1, 4, 4, 3), shape))


def test_inputs_that_an_operator_needs_are_there_and_a_bias_need_not_be(data: bytes) -> None:
    found = read_tflite(data)
    convolution = found.nodes[0]
    assert convolution.operator == "CONV_2D"
    image, kernel, bias = convolution.inputs
    for missing in ((-1, kernel, bias), (image, -1, bias)):
        with pytest.raises(ValueError, match="refers to a missing tensor"):
            read_tflite(words_of(data, convolution.inputs, missing))
    bare = read_tflite(words_of(data, convolution.inputs, (image, kernel, -1)))
    assert bare.nodes[0].inputs == (image, kernel, -1)


@pytest.mark.parametrize("data", [b"", b"\x08\x0a" * 40, b"\0" * 8 + FILE_IDENTIFIER])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"not a readable \.tflite file"):
        require_contents(data, "litert", "m.tflite")


def changed(data: bytes, change: Any) -> bytes:
    """The file with its parts changed by the schema's own classes."""
    model = schema.ModelT.InitFromPackedBuf(data)
    change(model, schema)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def custom(model: Any, schema: Any) -> None:
    code = schema.OperatorCodeT()
    code.builtinCode, code.customCode = schema.BuiltinOperator.CUSTOM, b"Evil"
    model.operatorCodes[1] = code


def control_flow(model: Any, schema: Any) -> None:
    model.operatorCodes[1].builtinCode = schema.BuiltinOperator.WHILE


def second_graph(model: Any, schema: Any) -> None:
    model.subgraphs.append(model.subgraphs[0])


def data_outside(model: Any, _: Any) -> None:
    model.buffers[1].data, model.buffers[1].offset, model.buffers[1].size = None, 64, 54


def in_float(model: Any, schema: Any) -> None:
    model.subgraphs[0].tensors[3].type = schema.TensorType.FLOAT32


def variable(model: Any, _: Any) -> None:
    model.subgraphs[0].tensors[3].isVariable = True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (custom, r"custom operator 'Evil'"),
        (control_flow, r"operator 119"),
        (second_graph, r"2 subgraphs"),
        (data_outside, r"data outside the file for 'w'|data outside the file for w"),
        (in_float, r"tensors that hold no integers"),
        (variable, r"variable or sparse tensor 'codes'"),
    ],
)
def test_what_no_export_writes_is_refused(change: Any, said: str, data: bytes) -> None:
    assert require_contents(changed(data, lambda *_: None), "litert", "m.tflite").inner == []
    with pytest.raises(InputError, match=said):
        require_contents(changed(data, change), "litert", "m.tflite")
