"""Certificates of files that this project would never write: any input, any type, any trouble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import InputError, UsageError
from deploy.core.json_schema import load_schema
from deploy.device import own_process
from export.certificate import Certificate, certify
from export.engine_graph import EngineGraph, RanNode
from export.float_reasons import RULES, why_float
from tests.export.integer_graphs import residual_graph
from tests.export.test_certificate import quantized_chain, save


def dense(
    inputs: list[tuple[str, int, list[int | str]]], nodes: list[onnx.NodeProto], outputs: list[str]
) -> onnx.ModelProto:
    """A model of these nodes with an 8×4 float matrix ``w`` and int64 ``zero`` stored."""
    graph = helper.make_graph(
        nodes,
        "any",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [
            numpy_helper.from_array(np.ones((8, 4), np.float32), "w"),
            numpy_helper.from_array(np.zeros((), np.int64), "zero"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_float_network_of_words_is_taken(tmp_path: Path) -> None:
    model = dense(
        [("tokens", TensorProto.INT64, ["batch", "length"]), ("bias", TensorProto.FLOAT16, [4])],
        [
            helper.make_node("Gather", ["w", "tokens"], ["vectors"], name="embed"),
            helper.make_node("MatMul", ["vectors", "w2"], ["product"], name="dense"),
            helper.make_node("Cast", ["bias"], ["wide"], name="widen", to=TensorProto.FLOAT),
            helper.make_node("Add", ["product", "wide"], ["scores"], name="add"),
            helper.make_node("ReduceMax", ["scores"], ["best"], name="best"),
        ],
        ["scores", "best"],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=np.float32), "w2"))
    certificate = certify(save(model, tmp_path / "words.onnx"), shapes={"tokens": (2, 5)})
    assert certificate.fed == {"tokens": (2, 5), "bias": (4,)}
    assert [(one.name, one.type, one.shape) for one in certificate.inputs] == [
        ("tokens", "int64", (None, None)),
        ("bias", "float16", (4,)),
    ]
    assert "0 of 1 matrix product integer" in certificate.summary()
    failed = {one.layer: one for one in certificate.failures}
    assert failed["bias"].rules == ("float-input",)
    assert {"no-quantizer-before", "no-quantizer-behind", "float-weights"} <= set(
        failed["dense"].rules
    )
    assert "rules that stopped integers:" in certificate.summary()


def test_nodes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    model = residual_graph(np.random.default_rng(0)).model()
    for node in model.graph.node:
        node.name = "same"
    certificate = certify(save(model, tmp_path / "same.onnx"))
    assert certificate.ok, certificate.failures
    assert certificate.counts()["convolution"]["integer"] == 3
    assert len({layer.layer for layer in certificate.layers}) == len(certificate.layers)


RULE_OF_CHANGE: dict[str, tuple[dict[str, Any], str, str]] = {
    "signed activations with a Relu": (
        {"activation": np.int8, "between": "Relu"},
        "conv",
        "float-clip",
    ),
    "float clip": ({"between": "Clip"}, "conv", "float-clip"),
    "no quantizer behind": ({"quantize_after": False}, "conv", "no-quantizer-behind"),
    "an initializer that is an input": (
        {"weight_is_input": True, "between": "Clip"},
        "conv",
        "overridable-initializer",
    ),
    "float weights": ({}, "dense", "float-weights"),
}


@pytest.mark.parametrize("case", RULE_OF_CHANGE)
def test_the_rule_that_stopped_a_layer_is_named(case: str, tmp_path: Path) -> None:
    changes, layer, rule = RULE_OF_CHANGE[case]
    certificate = certify(save(quantized_chain(**changes), tmp_path / "chain.onnx"))
    rules = {name for one in certificate.failures if one.layer == layer for name in one.rules}
    assert rule in rules


def test_signed_activations_are_named() -> None:
    # By hand: where ONNX Runtime turns int8 into uint8 by itself (x86-64 without VNNI), no file
    # of one convolution shows it.
    def ran(name: str, operator: str, reads: list[str], gives: str, kind: str) -> RanNode:
        return RanNode(
            name=name,
            layer=name,
            operator=operator,
            input=tuple(reads),
            output=(gives,),
            output_types=(kind,),
            provider="CPUExecutionProvider",
            time_us=1,
            activation="",
            depends_on_images=True,
        )

    conv = ran("conv", "Conv", ["x", "w"], "y", "float")
    after = ran("after", "QuantizeLinear", ["y"], "z", "int8")
    graph = EngineGraph(
        nodes=(ran("before", "DequantizeLinear", ["codes"], "x", "float"), conv, after),
        types={"codes": "int8", "x": "float", "y": "float", "z": "int8"},
        stored={"w": "float"},
        outputs=frozenset({"z"}),
    )
    assert [reason.rule for reason in why_float(conv, graph)] == [
        "signed-activations",
        "float-weights",
        "signed-output",
    ]


def test_flatten_without_a_quantizer_behind_it_is_named(tmp_path: Path) -> None:
    model = quantized_chain()
    arrays = {"s3": np.float32(0.1), "z3": np.uint8(3)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()
    )
    at = next(i for i, node in enumerate(model.graph.node) if node.name == "flatten")
    model.graph.node[at].input[0] = "gd"
    for operator, inputs, output in (
        ("DequantizeLinear", ["gq", "s3", "z3"], "gd"),
        ("QuantizeLinear", ["g", "s3", "z3"], "gq"),
    ):
        model.graph.node.insert(at, helper.make_node(operator, inputs, [output], name=output))
    certificate = certify(save(model, tmp_path / "flatten.onnx"))
    (dense_failure,) = [one for one in certificate.failures if one.layer == "dense"]
    assert dense_failure.rules[0] == "flatten-without-quantizer"
    assert "'flatten'" in dense_failure.reason


@pytest.mark.parametrize(
    "make", [quantized_chain, lambda: residual_graph(np.random.default_rng(0)).model()]
)
def test_a_certificate_is_as_the_published_schema_says(make: Any, tmp_path: Path) -> None:
    schema = load_schema("certificate-2", "export")
    jsonschema.Draft202012Validator.check_schema(schema)
    value = certify(save(make(), tmp_path / "model.onnx")).to_json()
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)
    value["layers"][0]["kind"] = "magic"
    with pytest.raises(jsonschema.ValidationError, match="magic"):
        jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)


def test_the_schema_lists_the_rules_that_there_are() -> None:
    failures = load_schema("certificate-2", "export")["properties"]["failures"]["items"][
        "properties"
    ]
    assert set(failures["rules"]["items"]["enum"]) == set(RULES)


def test_in_a_process_of_its_own_the_same_is_found(tmp_path: Path) -> None:
    path = residual_graph(np.random.default_rng(0)).save(tmp_path / "model.onnx")
    here, there = certify(path), certify(path, isolated=True)

    def without_times(certificate: Certificate) -> list[dict[str, Any]]:
        return [{**vars(layer), "time_share": 0} for layer in certificate.layers]

    assert without_times(here) == without_times(there)


def test_what_lies_in_the_working_directory_is_not_imported_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = residual_graph(np.random.default_rng(0)).save(tmp_path / "model.onnx")
    (tmp_path / "numpy.py").write_text("raise SystemExit('taken from the working directory')\n")
    monkeypatch.chdir(tmp_path)
    assert certify(path, isolated=True).ok


def test_an_engine_that_crashes_or_hangs_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = residual_graph(np.random.default_rng(0)).save(tmp_path / "model.onnx")
    monkeypatch.setattr(own_process, "LONGEST_S", 0.01)
    with pytest.raises(InputError, match=r"model\.onnx was not finished"):
        certify(path, isolated=True)
    monkeypatch.undo()
    # An interpreter that dies by a signal stands for ONNX Runtime bringing its process down.
    crash = tmp_path / "crash"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(crash))
    with pytest.raises(InputError, match=r"crashed on model\.onnx \(signal SIGSEGV\)"):
        certify(path, isolated=True)


@pytest.mark.parametrize(
    ("shapes", "error", "words"),
    [
        ({"pictures": (1, 3, 8, 8)}, UsageError, "no input pictures; the file's inputs: images"),
        ({"images": (1, 2, 8, 8)}, InputError, "failed to run"),
        ({"images": (2**14, 3, 2**9, 2**9)}, InputError, "sample values are generated"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    shapes: dict[str, tuple[int, ...]], error: type[Exception], words: str, tmp_path: Path
) -> None:
    path = save(quantized_chain(), tmp_path / "chain.onnx")
    with pytest.raises(error, match=words):
        certify(path, shapes=shapes)


def test_inputs_that_cannot_be_made_up_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"], name="copy")
    text = dense([("x", TensorProto.STRING, [1])], [node], ["y"])
    with pytest.raises(InputError, match="'x' is string"):
        certify(save(text, tmp_path / "text.onnx"))
    shapeless = dense([("x", TensorProto.FLOAT, [])], [node], ["y"])
    shapeless.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(InputError, match="'x' has no shape"):
        certify(save(shapeless, tmp_path / "shapeless.onnx"))
    known = certify(save(shapeless, tmp_path / "shapeless.onnx"), shapes={"x": ()})
    assert known.fed == {"x": ()}


def test_a_sample_of_images_is_fed_in_the_type_and_batch_of_the_file(tmp_path: Path) -> None:
    model = quantized_chain()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    images: NDArray[np.uint8] = np.random.default_rng(0).integers(
        0, 256, (2, 3, 8, 8), dtype=np.uint8
    )
    assert certify(save(model, tmp_path / "chain.onnx"), images).fed == {"images": (5, 3, 8, 8)}
