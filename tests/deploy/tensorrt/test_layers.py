"""Listings of layers: TensorRT-RTX's lines, the JSON of TensorRT 10 and of 11."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.core.errors import InputError
from deploy.tensorrt.layers import (
    EngineLayer,
    layers_from_json,
    layers_from_text,
    require_integer,
)

CODES = "Dimensions: [-1,16,8,8], Strides: [1024,1,128,16], StrideOrder: [3,0,2,1], Datatype: Int8"


def line(name: str, operator: str, taken: str = "Int8", stored: str = "Int8") -> str:
    x = f"{{ Name: x, {CODES.replace('Int8', taken)}, Format: (NHWC) Channel major format }}"
    w = f"{{ Name: w, {CODES.replace('Int8', stored)}, Format: (NHWC) Channel major format }}"
    y = f"{{ Name: y, {CODES.replace('Int8', 'Float')}, Format: (NHWC) Channel major format }}"
    return (
        f"Name: {name}, LayerType: {operator}, Inputs: [ {x}], Constants: [ {w}, {y}], "
        f"Outputs: [ {y}], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: {name}.conv]"
    )


END = "\n\nI/O Tensors:\n Name: images, IOMode: Input, DataType: Int8"
WAIT = (
    "Name: w8, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , "
    "StreamId: 1, EventId: 1, Metadata: "
)


def test_lines_of_the_builder() -> None:
    text = "\n".join(["Layers:", line("stem", "correlation"), WAIT, line("head", "gemm")]) + END
    stem, wait, head = layers_from_text(text)
    assert stem == EngineLayer(
        name="stem",
        operator="correlation",
        inputs=("int8",),
        weights=("int8", "float32"),
        outputs=("float32",),
        nodes=("stem.conv",),
    )
    assert (wait.kind, stem.kind, head.kind) == (None, "convolution", "matrix product")
    kinds = require_integer((stem, wait, head), {"Conv": 1, "Gemm": 1}, "it")
    assert kinds == {"convolution": 1, "matrix product": 1, "pool": 0}


@pytest.mark.parametrize("text", ["", "Layers:\n", "Layers:\nName: a, LayerType: b, Inputs: none"])
def test_no_layers_and_unknown_lines_are_errors(text: str) -> None:
    with pytest.raises(InputError, match="TensorRT lists"):
        layers_from_text(text)


def tensor(version: int, kind: str) -> dict[str, Any]:
    if version == 10:
        return {"Name": "t", "Dimensions": [1, 16, 8, 8], "Format/Datatype": f"Row major {kind}"}
    return {"Name": "t", "Dimensions": [1, 16, 8, 8], "Format": "Row major", "Datatype": kind}


def listing(version: int, taken: str = "Int8", stored: str = "Int8") -> str:
    convolution = {
        "Name": "conv + relu",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor(version, taken)],
        "Outputs": [tensor(version, "Int8")],
        "ParameterType": "Convolution",
        "Weights": {"Type": stored, "Count": 432},
        "Bias": {"Type": "Float", "Count": 16},
        "Metadata": "[ONNX Layer: conv]\u001e[ONNX Layer: relu]",
    }
    copy = {"Name": "in", "LayerType": "Reformat", "Inputs": [], "Outputs": []}
    return json.dumps({"Layers": [copy, convolution]})


@pytest.mark.parametrize("version", [10, 11])
def test_json_of_both_versions(version: int) -> None:
    layers = layers_from_json(listing(version))
    assert layers[1].nodes == ("conv", "relu")
    assert (layers[1].inputs, layers[1].weights) == (("int8",), ("int8",))
    assert require_integer(layers, {"Conv": 1}, "it")["convolution"] == 1


@pytest.mark.parametrize("version", [10, 11])
@pytest.mark.parametrize(
    ("taken", "stored"), [("FP32", "Int8"), ("Int8", "Float"), ("FP16", "FP16")]
)
def test_a_float_layer_is_named(version: int, taken: str, stored: str) -> None:
    layers = layers_from_json(listing(version, taken, stored))
    with pytest.raises(InputError, match=r"1 of 1 layers of it .* conv \+ relu"):
        require_integer(layers, {"Conv": 1}, "it")


@pytest.mark.parametrize(("second", "good"), [("int8", True), ("float32", False)])
def test_weights_as_a_second_input(second: str, good: bool) -> None:
    layer = EngineLayer(
        name="head", operator="gemm", inputs=("int8", second), weights=(), outputs=("float32",)
    )
    if good:
        assert require_integer((layer,), {"Gemm": 1}, "it")["matrix product"] == 1
    else:
        with pytest.raises(InputError, match="gemm of int8, float32"):
            require_integer((layer,), {"Gemm": 1}, "it")


@pytest.mark.parametrize("promised", [{"Conv": 2}, {"Conv": 1, "Gemm": 1}, {}])
def test_hidden_layers_are_not_taken_for_integers(promised: dict[str, int]) -> None:
    with pytest.raises(InputError, match="lists 1 convolutions and matrix products"):
        require_integer(layers_from_json(listing(11)), promised, "it")


def test_a_float_pool_is_named() -> None:
    pool = EngineLayer(
        name="p", operator="maxpool", inputs=("int8",), weights=(), outputs=("float32",)
    )
    with pytest.raises(InputError, match="p \\(maxpool of int8, float32\\)"):
        require_integer((pool,), {}, "it")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"Layers": []}', '{"Layers": ["conv + relu"]}', '{"Layers": [{"Name": 1}]}']
)
def test_a_listing_without_details_is_an_error(text: str) -> None:
    with pytest.raises(InputError):
        layers_from_json(text)
