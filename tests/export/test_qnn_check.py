"""What the QNN provider says that it would take of our files; no Snapdragon is needed to ask it."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import EngineUnavailable, InputError
from deploy.onnxruntime_qnn import ask_qnn
from export.lowering import lower
from export.qnn_check import qnn_assignment
from export.qonnx_from_network import write_qonnx
from qadtr.__main__ import main
from tests.deploy.tensorrt.qdq_files import exported
from training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]

pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn has wheels for some systems alone")


def test_the_all_integer_file_of_a_network_with_a_pool_is_refused_as_a_whole(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=r"does not open onnxruntime-8.onnx with QNN: .*MaxPool"):
        qnn_assignment(exported(tmp_path, 8, "onnxruntime"))


@pytest.mark.parametrize(
    ("zero_points", "reason"),
    [(8, ""), (1, "w_zero_point size must match w_scale size")],
    ids=["one of each channel", "one of all, as we write it"],
)
def test_an_integer_convolution_needs_a_zero_point_of_each_channel(
    zero_points: int, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "integer.onnx"
    onnx.save(_integer_convolution(zero_points), path)
    found = qnn_assignment(path)
    assert found.products == 1
    assert found.integer_products == (0 if reason else 1)
    refused = {one.operator: one.reason for one in found.refused}
    assert reason in refused.get("QLinearConv", "")
    assert refused["QLinearAdd"] == "Operators of type `QLinearAdd` are not supported by QNN EP"


def _integer_convolution(zero_points: int) -> onnx.ModelProto:
    """Codes through Q, QLinearConv and QLinearAdd of the result with itself."""
    codes = ["c", "ys", "z"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x.q"], "q"),
        helper.make_node(
            "QLinearConv", ["x.q", "s", "z", "w", "ws", "wz", "ys", "z"], ["c"], "conv"
        ),
        helper.make_node(
            "QLinearAdd", [*codes, *codes, "ys", "z"], ["y"], "sum", domain="com.microsoft"
        ),
    ]
    return _file(
        nodes,
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 16, 16]),
        helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 8, 14, 14]),
        wz=np.zeros(8, np.int8) if zero_points > 1 else np.int8(0),
    )


def _file(
    nodes: list[onnx.NodeProto], x: onnx.ValueInfoProto, y: onnx.ValueInfoProto, **own: Any
) -> onnx.ModelProto:
    """Nodes that read the scales and zero points of x, of int8 weights and of y."""
    tensors = {
        "s": np.float32(0.02), "z": np.uint8(0), "ws": np.full(8, 0.01, np.float32),
        "w": np.random.default_rng(0).integers(-127, 128, (8, 4, 3, 3)).astype(np.int8),
        "wz": np.zeros(8, np.int8), "ys": np.float32(0.3), **own,
    }  # fmt: skip
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "one", [x], [y], stored)
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=sets, ir_version=9)


def test_a_clamp_before_the_codes_keeps_a_convolution_in_float(tmp_path: Path) -> None:
    found = qnn_assignment(exported(tmp_path, 4, "tensorrt"))
    convolutions = [one for one in found.operators if one.of == ("Conv",)]
    assert convolutions and found.integer_products == 0
    assert all("Conv2d" in one.operator for one in convolutions)
    assert {one.type for one in convolutions} == {"float16"}
    assert all("standalone DQ op with per-channel" in one.reason for one in found.refused)


@pytest.mark.parametrize(
    ("given", "integer"), [(np.uint8, True), (np.int8, False)], ids=["uint8 to uint8", "to int8"]
)
def test_a_convolution_in_codes_of_one_type_is_taken_in_integers(
    given: type, integer: bool, tmp_path: Path
) -> None:
    path = tmp_path / "conv.onnx"
    onnx.save(_convolution(given), path)
    found = qnn_assignment(path)
    (one,) = (one for one in found.operators if one.is_product)
    assert (one.name, one.integer) == ("conv", integer)
    assert (found.products, found.integer_products) == (1, int(integer))
    assert found.ok is integer
    assert found.version in found.summary()


def _convolution(given: type) -> onnx.ModelProto:
    """uint8 images, open in number, through Q/DQ and a convolution to codes of the type given."""
    make = helper.make_node
    nodes = [
        make("DequantizeLinear", ["x", "s", "z"], ["x.f"], "x.dq"),
        make("DequantizeLinear", ["w", "ws", "wz"], ["w.f"], "w.dq", axis=0),
        make("Conv", ["x.f", "w.f"], ["c"], "conv", pads=[1, 1, 1, 1]),
        make("QuantizeLinear", ["c", "ys", "yz"], ["y"], "y.q"),
    ]
    kind = TensorProto.UINT8 if given is np.uint8 else TensorProto.INT8
    return _file(
        nodes,
        helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 4, 16, 16]),
        helper.make_tensor_value_info("y", kind, ["N", 8, 16, 16]),
        yz=given(0),
    )


def test_files_that_cannot_be_asked_about(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported(tmp_path).read_bytes()[:-100])
    with pytest.raises(InputError):
        qnn_assignment(broken)
    with pytest.raises(InputError, match=r"does not open broken.onnx with QNN: "):
        ask_qnn(broken, name=broken.name)
    with pytest.raises(InputError, match="does not exist"):
        ask_qnn(tmp_path / "none.onnx", name="none.onnx")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is hidden from the process that asks, by one of the same name before it."""
    (tmp_path / "onnxruntime_qnn.py").write_text("raise ImportError('hidden')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}")
    with pytest.raises(EngineUnavailable, match=r"needs the package onnxruntime-qnn .*\[qnn\]"):
        qnn_assignment(exported(tmp_path, 4, "tensorrt"))


def test_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(exported(tmp_path, 4, "tensorrt"))
    assert main(["inspect", path, "--provider", "qnn"]) == 2
    out = capsys.readouterr().out
    assert "never on a Snapdragon" in out.splitlines()[-1]
    assert main(["inspect", path, "--provider", "qnn", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["refused"]
    assert main(["inspect", path, "--provider", "qnn", "--threads", "2"]) == 4
    assert "--threads has no effect with --provider qnn" in capsys.readouterr().err


def test_the_page_says_what_the_provider_says_of_the_committed_network(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "snapdragon.md").read_text(encoding="utf-8")
    assert f"onnxruntime-qnn {version('onnxruntime-qnn')}" in page
    network = RunFolder.open(ROOT / "results" / "cifar10-resnet8-cpu" / "qadtr").load_network()
    lines = re.findall(r"^(\w+)-(\d) +(\d+ of .*)$", page, re.MULTILINE)
    assert len(lines) == 4
    for target, bits, said in lines:
        source = write_qonnx(network, int(bits), tmp_path / f"source-{bits}.onnx")
        made = lower(source, tmp_path / f"{target}-{bits}.onnx", target=target)
        assert qnn_assignment(made.path).summary().startswith(f"{said} (")
