from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import InputError
from deploy.core.json_schema import SchemaMismatch, check, load_schema
from deploy.core.strict_json import read_json, write_json
from deploy.device.onnxruntime_profile import ProfiledRun, profile_onnx
from deploy.device.profile_check import check_against_certificate, ran_kinds
from export.certificate import (
    Certificate,
    CertificateError,
    certify,
)
from export.engine_graph import read_engine_graph
from tests.export.integer_graphs import random_images, residual_graph


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return random_images(np.random.default_rng(5), 4, 8)


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_an_integer_file_is_certified(bits: int, images: NDArray[np.uint8], tmp_path: Path) -> None:
    path = residual_graph(np.random.default_rng(0), bits=bits).save(tmp_path / "model.onnx")
    certificate = certify(path, images).required()
    assert certificate.ok
    assert certificate.inputs[0].type == "uint8"
    assert certificate.fed == {"images": images.shape}
    assert certificate.counts() == {
        "convolution": {"integer": 3, "float": 0},
        "matrix product": {"integer": 1, "float": 0},
        "addition": {"integer": 1, "float": 0},
        "pool": {"integer": 2, "float": 0},
        "gate": {"integer": 0, "float": 0},
        "function": {"integer": 0, "float": 0},
    }
    assert "gates" not in certificate.summary()
    assert "3 of 3 convolutions integer" in certificate.summary()
    assert certificate.requantizations == ("block_codes",)
    assert certificate.float_requantizations == ()
    layers = {layer.layer: layer for layer in certificate.layers}
    assert layers["stem"].operator.endswith("QLinearConv")
    assert layers["stem"].input_types == layers["stem"].output_types == ("uint8",)
    assert layers["dense"].output_types == ("float",)
    assert layers["block_add"].input_types == ("uint8", "uint8")
    assert {layer.provider for layer in certificate.layers} == {"CPUExecutionProvider"}
    assert sum(layer.time_share or 0.0 for layer in certificate.layers) == pytest.approx(1)


def test_nodes_without_names_are_certified_too(images: NDArray[np.uint8], tmp_path: Path) -> None:
    model = residual_graph(np.random.default_rng(0)).model()
    for node in model.graph.node:
        node.ClearField("name")
    certificate = certify(save(model, tmp_path / "unnamed.onnx"), images).required()
    assert certificate.counts()["convolution"]["integer"] == 3
    assert "stem.out" in {layer.layer for layer in certificate.layers}


def test_a_certificate_is_written_as_its_schema_says(
    images: NDArray[np.uint8], tmp_path: Path
) -> None:
    for name, model in {"integer": residual_graph(np.random.default_rng(0)).model(),
                        "float": quantized_chain()}.items():  # fmt: skip
        certificate = certify(save(model, tmp_path / f"{name}.onnx"), images)
        assert certificate.ok == (name == "integer")
        write_json(tmp_path / f"{name}.json", certificate.to_json())
        check(read_json(tmp_path / f"{name}.json"), load_schema("certificate-2", "export"))
    with pytest.raises(SchemaMismatch, match="'colour' is an unknown field"):
        check({**certificate.to_json(), "colour": 1}, load_schema("certificate-2", "export"))


# ------------------------------------------------------------------ files that are not integer


def quantized_chain(
    *,
    activation: Any = np.uint8,
    weight: Any = np.int8,
    weight_is_input: bool = False,
    between: str = "",
    quantize_after: bool = True,
    pair: bool = False,
    uint8_images: bool = False,
) -> onnx.ModelProto:
    """Images → Q → DQ → Conv → … → Q → DQ → pool → Flatten → Gemm, as tools write it."""
    rng = np.random.default_rng(0)
    zero = 128 if activation is np.uint8 else 0
    limit = 7 if weight is ml_dtypes.int4 else 127
    arrays: dict[str, NDArray[Any]] = {
        "s": np.asarray(0.05, np.float32),
        "s2": np.asarray(0.11, np.float32),
        "z": np.asarray(zero, activation),
        "sw": np.asarray(0.01, np.float32),
        "zw": np.asarray(0).astype(weight),
        "w": rng.integers(-limit, limit + 1, (4, 3, 3, 3)).astype(weight),
        "b": rng.integers(-99, 99, 4).astype(np.int32),
        "sb": np.asarray(0.05 * 0.01, np.float32),
        "zb": np.asarray(0, np.int32),
        "low": np.asarray(-1, np.float32),
        "high": np.asarray(1, np.float32),
        "wd": rng.normal(0, 1, (4, 5)).astype(np.float32),
    }
    node = helper.make_node
    nodes = []
    source = "images"
    if uint8_images:
        nodes.append(node("DequantizeLinear", ["images", "s", "z"], ["x"], name="dq_in"))
    else:
        nodes += [
            node("QuantizeLinear", ["images", "s", "z"], ["q"], name="q_in"),
            node("DequantizeLinear", ["q", "s", "z"], ["x"], name="dq_in"),
        ]
    nodes += [
        node("DequantizeLinear", ["w", "sw", "zw"], ["wf"], name="dq_w"),
        node("DequantizeLinear", ["b", "sb", "zb"], ["bf"], name="dq_b"),
        node("Conv", ["x", "wf", "bf"], ["c"], name="conv", kernel_shape=[3, 3]),
    ]
    tip = "c"
    if between:
        extra = ["low", "high"] if between == "Clip" else []
        nodes.append(node(between, [tip, *extra], ["between"], name="between"))
        tip = "between"
    if quantize_after:
        nodes += [
            node("QuantizeLinear", [tip, "s2", "z"], ["q2"], name="q_out"),
            node("DequantizeLinear", ["q2", "s2", "z"], ["d2"], name="dq_out"),
        ]
        tip = "d2"
    if pair:
        nodes += [
            node("QuantizeLinear", [tip, "s", "z"], ["q3"], name="q_again"),
            node("DequantizeLinear", ["q3", "s", "z"], ["d3"], name="dq_again"),
        ]
        tip = "d3"
    nodes += [
        node("GlobalAveragePool", [tip], ["g"], name="pool"),
        node("Flatten", ["g"], ["f"], name="flatten"),
        node("MatMul", ["f", "wd"], ["out"], name="dense"),
    ]
    kind = TensorProto.UINT8 if uint8_images else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(source, kind, ["N", 3, 8, 8])]
    if weight_is_input:
        inputs.append(
            helper.make_tensor_value_info("w", helper.np_dtype_to_tensor_dtype(np.dtype(weight)),
                                          [4, 3, 3, 3])
        )  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "chain",
        inputs,
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    return model


def reasons(certificate: Certificate, layer: str) -> str:
    return " | ".join(one.reason for one in certificate.failures if one.layer == layer)


FLOAT_CONVOLUTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "signed activations": ({"activation": np.int8, "between": "Relu"}, "float Relu is between"),
    "float clip": ({"between": "Clip"}, "float Clip is between"),
    "no quantizer": ({"quantize_after": False}, "no QuantizeLinear after it"),
    "initializer as input": ({"weight_is_input": True, "between": "Clip"}, "also a graph input"),
    "INT4 weights": ({"weight": ml_dtypes.int4}, "int4"),
}


FUNCTIONS = ("Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Softplus", "Erf", "Exp", "Gelu")


def float_layer(operator: str) -> onnx.ModelProto:
    """The integer graph with DequantizeLinear → ``operator`` → QuantizeLinear before its end."""
    model = residual_graph(np.random.default_rng(0)).model()
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in {"step": np.float32(0.01), "none": np.uint8(0)}.items()
    )
    index, flatten = next(
        (i, node) for i, node in enumerate(model.graph.node) if node.name == "flatten"
    )
    flatten.input[0] = "codes"
    operands = ["real", "real"] if operator == "Mul" else ["real"]
    nodes = [
        helper.make_node("DequantizeLinear", ["pool.out", "step", "none"], ["real"], name="dq"),
        helper.make_node(operator, operands, ["value"], name="inserted"),
        helper.make_node("QuantizeLinear", ["value", "step", "none"], ["codes"], name="q"),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(index, node)
    return model


@pytest.mark.parametrize("operator", ["Mul", *FUNCTIONS])
def test_a_float_gate_or_function_fails_the_certificate_and_the_device(
    operator: str, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = save(float_layer(operator), tmp_path / "model.onnx")
    # As written: optimized, the engine has integer kernels for some.
    certificate = certify(path, images, optimize=False)
    kind = "gate" if operator == "Mul" else "function"
    assert certificate.counts()[kind] == {"integer": 0, "float": 1}
    assert f"0 of 1 {kind} integer" in certificate.summary()
    assert f"{operator} ran in float" in reasons(certificate, "inserted")
    with pytest.raises(CertificateError, match=f"inserted: {operator} ran in float"):
        certificate.required()
    check(certificate.to_json(), load_schema("certificate-2", "export"))
    feeds = {"images": images}
    profile_onnx(
        path,
        feeds,
        settings=ProfiledRun(threads=1, runs=1, optimize=False),
        profile_to=tmp_path / "profile.json",
        optimized_to=tmp_path / "optimized.onnx",
    )
    with pytest.raises(InputError, match=rf"ran in float: inserted \({operator} of float"):
        ran_kinds(tmp_path / "profile.json").require_integers()


def test_certificates_from_before_gates_were_counted_are_read(
    images: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = residual_graph(np.random.default_rng(0)).save(tmp_path / "model.onnx")
    old = certify(path, images).to_json()
    del old["counts"]["gate"], old["counts"]["function"]
    check(old, load_schema("certificate-2", "export"))
    certified = {"engine": "e", "machine": "m", "kinds": {"convolution": 3, "pool": 2}}
    check_against_certificate({"convolution": 3, "pool": 2, "gate": 1, "function": 0}, certified)
    for ran in ({"convolution": 2, "pool": 2}, {"convolution": 3, "pool": 2, "addition": 1}):
        with pytest.raises(InputError, match="the graph is another one"):
            check_against_certificate(ran, certified)
    certified["kinds"] = {"convolution": 3, "pool": 2, "gate": 2}
    with pytest.raises(InputError, match="the graph is another one"):
        check_against_certificate({"convolution": 3, "pool": 2, "gate": 1}, certified)


@pytest.mark.parametrize("case", FLOAT_CONVOLUTIONS)
def test_a_float_convolution_is_named_with_its_reason(
    case: str, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    changes, words = FLOAT_CONVOLUTIONS[case]
    certificate = certify(save(quantized_chain(**changes), tmp_path / "chain.onnx"), images)
    assert certificate.counts()["convolution"]["float"] == 1
    assert "0 of 1 convolution integer" in certificate.summary()
    assert "ran in float" in reasons(certificate, "conv")
    assert words in reasons(certificate, "conv")
    with pytest.raises(CertificateError, match="conv"):
        certificate.required()


def test_what_the_engine_fuses_counts_not_what_the_file_says(
    images: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = save(quantized_chain(), tmp_path / "chain.onnx")
    assert "QLinearConv" not in {node.op_type for node in onnx.load(path).graph.node}
    optimized = certify(path, images)
    assert optimized.counts()["convolution"]["integer"] == 1
    as_written = certify(path, images, optimize=False)
    assert as_written.counts()["convolution"]["float"] == 1
    # Pool and product have no quantizer behind them, and the input is float.
    assert "ran in float" in reasons(optimized, "dense")
    assert "the input is float" in reasons(optimized, "images")


def test_a_float_tensor_between_nodes_is_a_failure(
    images: NDArray[np.uint8], tmp_path: Path
) -> None:
    certificate = certify(save(quantized_chain(), tmp_path / "chain.onnx"), images)
    assert "gives a float tensor" in reasons(certificate, "flatten")


def test_a_requantization_through_float_is_listed_and_no_failure(
    images: NDArray[np.uint8], tmp_path: Path
) -> None:
    model = residual_graph(np.random.default_rng(0)).model()
    arrays = {"half": np.float32(0.5), "third": np.float32(1 / 3), "none": np.uint8(0)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()
    )
    index, flatten = next(
        (i, node) for i, node in enumerate(model.graph.node) if node.name == "flatten"
    )
    flatten.input[0] = "requantized"
    for operator, inputs, output in (
        ("QuantizeLinear", ["real", "third", "none"], "requantized"),
        ("DequantizeLinear", ["pool.out", "half", "none"], "real"),
    ):
        node = helper.make_node(operator, inputs, [output], name=operator)
        model.graph.node.insert(index, node)
    certificate = certify(save(model, tmp_path / "pair.onnx"), images).required()
    assert certificate.float_requantizations == ("DequantizeLinear → QuantizeLinear",)
    assert "1 by DequantizeLinear" in certificate.summary()


def test_a_graph_without_a_layer_is_not_certified(
    images: NDArray[np.uint8], tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], name="flatten"),
        helper.make_node("Cast", ["flat"], ["logits"], name="cast", to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "empty",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 192])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    certificate = certify(save(model, tmp_path / "empty.onnx"), images)
    assert not certificate.ok
    assert "no convolution" in reasons(certificate, "graph")


def test_files_that_are_no_classifiers_of_images_are_refused(
    images: NDArray[np.uint8], tmp_path: Path
) -> None:
    (tmp_path / "none.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"none\.onnx"):
        certify(tmp_path / "none.onnx", images)
    path = residual_graph(np.random.default_rng(0)).save(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="8×8"):
        certify(path, random_images(np.random.default_rng(0), 2, 9))


def test_a_profile_of_another_graph_proves_nothing(
    images: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = residual_graph(np.random.default_rng(0)).save(tmp_path / "model.onnx")
    event = {
        "cat": "Node",
        "name": "elsewhere_kernel_time",
        "dur": 5,
        "args": {
            "op_name": "Conv",
            "provider": "CPUExecutionProvider",
            "output_type_shape": [{"float": [1]}],
        },
    }
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps([event]))
    graph = read_engine_graph(path, profile, file_nodes={"stem"})
    assert graph.nodes == ()
    assert {"stem", "dense", "elsewhere"} <= set(graph.unproven)
    profile.write_text("[]")
    with pytest.raises(InputError, match="no kernel times"):
        read_engine_graph(path, profile, file_nodes=set())


@pytest.mark.slow
def test_a_stock_brevitas_file_runs_in_float_and_the_certificate_says_why(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    brevitas = pytest.importorskip("brevitas.nn")
    from brevitas.export import export_onnx_qcdq

    class Network(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.quantize = brevitas.QuantIdentity(bit_width=8)
            self.first = brevitas.QuantConv2d(3, 8, 3, weight_bit_width=4)
            self.relu = brevitas.QuantReLU(bit_width=4)
            self.second = brevitas.QuantConv2d(8, 8, 3, weight_bit_width=4)
            self.last = brevitas.QuantReLU(bit_width=4)
            self.dense = brevitas.QuantLinear(8, 5, bias=True, weight_bit_width=4)

        def forward(self, x: Any) -> Any:
            x = self.relu(self.first(self.quantize(x)))
            return self.dense(self.last(self.second(x)).mean((2, 3)))

    generator = torch.Generator().manual_seed(0)
    network = Network()
    for _ in range(3):
        network(torch.rand(4, 3, 12, 12, generator=generator))
    path = tmp_path / "stock.onnx"
    sample = torch.rand(2, 3, 12, 12, generator=generator)
    export_onnx_qcdq(network.eval(), args=sample, export_path=str(path), opset_version=17)
    certificate = certify(path, random_images(np.random.default_rng(0), 5, 12))
    assert "0 of 2 convolutions integer" in certificate.summary()
    assert certificate.inputs[0].type == "float"
    convolutions = [one for one in certificate.failures if "Conv ran in float" in one.reason]
    assert len(convolutions) == 2
    assert all("also a graph input" in one.reason for one in convolutions)
