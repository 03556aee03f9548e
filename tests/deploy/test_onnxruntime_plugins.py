"""Providers as plug-ins: where they run, what ran is proved; elsewhere a line says what lacks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.engine_protocol import Certified, Engine
from deploy.core.errors import EngineUnavailable, InputError
from deploy.core.host import Host
from deploy.core.model_contents import read_model_contents
from deploy.core.onnx_operators import OnnxFile
from deploy.engine import open_engine, version_of
from deploy.onnxruntime_openvino_engine import (
    Kernel,
    OnnxRuntimeOpenVinoEngine,
    kernels_of,
    require_integers,
)
from tests.deploy.tensorrt.qdq_files import changed, exported, uint8_zero_point

PROVIDER = OnnxRuntimeOpenVinoEngine.providers["openvino"]
TARGETS = {"onnxruntime-openvino": "qcdq", "onnxruntime-tensorrt-rtx": "tensorrt"}


def opened(name: str, path: Path) -> Engine | str:
    """The engine, or why it is not available."""
    try:
        return open_engine(name, path)
    except EngineUnavailable as error:
        return str(error)


def test_it_runs_in_openvinos_integers_or_says_which_processor_it_needs(tmp_path: Path) -> None:
    """On Intel's processors the run and its proof; elsewhere, and without VNNI, the refusal."""
    path = exported(tmp_path, target="qcdq")
    found = opened("onnxruntime-openvino", path)
    if isinstance(found, str):
        assert "an Intel processor" in found or "no VNNI" in found
        assert "'openvino'" in found
        return
    engine = found
    images = np.random.default_rng(0).integers(0, 256, (5, *engine.input_shape), np.uint8)
    with engine, open_engine("openvino", path) as other:
        assert isinstance(engine, OnnxRuntimeOpenVinoEngine) and isinstance(engine, Certified)
        assert sum(engine.kinds_that_ran().values()) >= 2
        np.testing.assert_allclose(engine.run(images), other.run(images), rtol=0, atol=1e-4)
    assert engine.name == "onnxruntime-openvino"
    with pytest.raises(InputError, match=r"all-integer file.*--target qcdq"):
        open_engine("onnxruntime-openvino", exported(tmp_path, target="onnxruntime"))


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [
        ("onnxruntime-openvino", "onnxruntime_ep_openvino", "openvino-ep"),
        ("onnxruntime-tensorrt-rtx", "onnxruntime_ep_nv_tensorrt_rtx", "rtx-ep"),
    ],
)
def test_a_missing_package_is_named(
    engine: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("deploy.onnxruntime_plugin._registered", set())
    path = exported(tmp_path, target=TARGETS[engine])
    with pytest.raises(EngineUnavailable, match=rf"needs the package .*pip install .*\[{extra}\]"):
        open_engine(engine, path)


def test_a_processor_without_vnni_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "u8s8_saturates", True)
    with pytest.raises(EngineUnavailable, match=r"no VNNI.*'onnxruntime', which is exact"):
        open_engine("onnxruntime-openvino", exported(tmp_path, target="qcdq"))


def test_rtx_takes_tensorrts_files_alone(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(changed(exported(tmp_path), uint8_zero_point))
    with pytest.raises(InputError, match="is uint8"):
        open_engine("onnxruntime-tensorrt-rtx", broken)


def test_versions_are_those_of_the_plug_ins() -> None:
    assert version_of("onnxruntime-openvino") != version_of("onnxruntime-cpu")
    assert version_of("onnxruntime-openvino") != version_of("openvino-cpu")


# What OpenVINO 2026.4.1 counted of a 4-bit ResNet-8 (the first of its kernels), in the profile of
# onnxruntime 1.31.1 with onnxruntime-ep-openvino 1.8.1.
NODE = {"cat": "Node", "name": "p_kernel_time", "args": {"provider": PROVIDER, "op_name": "p_0"}}


def counted(operator: str, kernel: str, name: str) -> dict[str, Any]:
    arguments = {"ep": PROVIDER, "ov_node_type": operator, "ov_exec_type": kernel}
    return {"cat": "Kernel", "name": f"OV::{name}", "args": {**arguments, "ov_status": "EXECUTED"}}


EVENTS: list[dict[str, Any]] = [
    {"cat": "Session", "name": "model_run", "args": {}},
    NODE,
    counted("Reorder", "jit_uni_I8", "images_abcd_acdb_stem.conv/WithoutBiases"),
    counted("Convolution", "brgconv_avx512_I8", "stem.conv/WithoutBiases"),
    counted("FakeQuantize", "jit_avx512_f32", "block0.enter.q"),
    counted("FullyConnectedQuantizedLegacy", "brgemm_avx512_I8", "logits/WithoutBiases"),
]


def profile_of(events: list[dict[str, Any]], folder: Path) -> Path:
    path = folder / "profile.json"
    path.write_text(json.dumps(events))
    return path


def test_the_profile_names_the_kernel_of_each_layer(tmp_path: Path) -> None:
    kernels = kernels_of(profile_of([*EVENTS, *EVENTS], tmp_path), PROVIDER)
    assert len(kernels) == 4
    assert kernels[1] == Kernel("stem.conv/WithoutBiases", "Convolution", "brgconv_avx512_I8")
    elsewhere = {**NODE, "args": {"provider": "CPUExecutionProvider"}}
    with pytest.raises(InputError, match="ran in CPUExecutionProvider"):
        kernels_of(profile_of([*EVENTS, elsewhere], tmp_path), PROVIDER)
    with pytest.raises(InputError, match="counted no kernel"):
        kernels_of(profile_of(EVENTS[:2], tmp_path), PROVIDER)


def test_a_float_kernel_and_a_layer_too_few_are_refused(tmp_path: Path) -> None:
    path = exported(tmp_path, target="qcdq")
    file = read_model_contents(path.read_bytes(), path.name)
    operators = [node.operator for node in file.nodes if node.operator in ("Conv", "Gemm")]
    names = {"Conv": "Convolution", "Gemm": "FullyConnected"}
    right = tuple(Kernel(f"l{i}", names[one], "x_I8") for i, one in enumerate(operators))
    assert sum(_kinds(file, right).values()) == len(operators)
    wrong = (right[0]._replace(kernel="brgconv_avx512_f32"), *right[1:])
    with pytest.raises(InputError, match=r"1 of .* ran in float.*l0 \(brgconv_avx512_f32\)"):
        _kinds(file, wrong)
    with pytest.raises(InputError, match="it is not known how the others were run"):
        _kinds(file, right[1:])


def _kinds(file: OnnxFile, kernels: tuple[Kernel, ...]) -> dict[str, int]:
    return require_integers(file, "m.onnx", kernels)
