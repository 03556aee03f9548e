"""TensorRT-RTX really builds this project's networks, with no GPU: `make test-rtx`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.core.errors import EngineUnavailable, InputError, UsageError
from deploy.core.files import sha256_of
from deploy.tensorrt.__main__ import main
from deploy.tensorrt.bindings import TENSORRT_RTX, load
from deploy.tensorrt.builder import build_engine
from deploy.tensorrt.engine_file import read_engine_file, sidecar_of
from deploy.tensorrt.options import COMPUTE_CAPABILITIES, BuildOptions
from export.lowering import lower, lower_float
from export.qonnx_from_network import write_qonnx
from tests.deploy.tensorrt.qdq_files import BROKEN, Change, changed, exported
from tests.export.test_network_lowering import network

pytestmark = pytest.mark.rtx

BIT_WIDTHS = (8, 4, 2)
NETWORKS = {
    "resnet8": 9,
    "resnet20": 21,
    "vgg11": 8,
    "mobilenetv2": 52,
    "resnet18": 20,
    "resnet50": 53,
}
"""Networks, calibrated on colour fields at 32 px, and how many convolutions each has."""


@pytest.mark.parametrize("name", NETWORKS)
def test_the_builder_compiles_every_layer_to_integers(name: str, tmp_path: Path) -> None:
    built = network(name, *BIT_WIDTHS)
    for bits in BIT_WIDTHS:
        qonnx = write_qonnx(built, bits, tmp_path / f"{bits}.qonnx")
        model = lower(qonnx, tmp_path / f"{bits}.onnx", target="tensorrt").path
        engine = tmp_path / f"{bits}.engine"
        facts = build_engine(model, engine, TENSORRT_RTX)
        assert facts["onnx_sha256"] == sha256_of(model)
        assert facts["kinds"]["convolution"] == NETWORKS[name]
        assert facts["kinds"]["matrix product"] == 1
        assert facts["options"]["compute_capabilities"] == list(COMPUTE_CAPABILITIES)
        assert facts["engine"]["sha256"] == sha256_of(engine)
        assert "never run on hardware" in facts["note"]
        engine.unlink()


@pytest.mark.parametrize("target", [*COMPUTE_CAPABILITIES, "12.1"])
def test_each_target_is_built_alone(tmp_path: Path, target: str) -> None:
    options = BuildOptions(compute_capabilities=(target,), batch_sizes=(1, 1, 1))
    facts = build_engine(exported(tmp_path), tmp_path / "m.engine", TENSORRT_RTX, options)
    assert facts["options"]["compute_capabilities"] == [target]
    assert facts["kinds"] == {"convolution": 2, "matrix product": 1, "pool": 1}


def test_what_the_compiler_refuses_is_told_and_the_engine_of_before_stays(tmp_path: Path) -> None:
    model, engine = exported(tmp_path), tmp_path / "m.engine"
    build_engine(model, engine, TENSORRT_RTX)
    # Another process: version 1.7.1 remembers the failure, and the next plan would be a float one.
    words = [sys.executable, "-m", "deploy.tensorrt", str(model), "--out", str(engine)]
    done = subprocess.run(
        [*words, "--compute-capability", "7.5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "cannot compile" in done.stderr and "Turing" in done.stderr
    read_engine_file(engine, onnx_sha256=sha256_of(model), bindings=load(TENSORRT_RTX))


def test_a_plan_with_float_layers_is_refused(tmp_path: Path) -> None:
    qonnx = write_qonnx(network("resnet8", 32), 32, tmp_path / "float.qonnx")
    model = lower_float(qonnx, tmp_path / "float.onnx", target="tensorrt").path
    with pytest.raises(
        InputError, match=r"promised in integers are not in integers: .* of float32, float32"
    ):
        build_engine(model, tmp_path / "m.engine", TENSORRT_RTX)
    assert not (tmp_path / "m.engine").exists()


def test_an_unknown_target_names_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"9\.0; it supports .*8\.6"):
        build_engine(
            exported(tmp_path),
            tmp_path / "m.engine",
            TENSORRT_RTX,
            BuildOptions(compute_capabilities=("9.0",)),
        )


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_a_file_that_would_be_misread_is_refused_before_the_parser(
    tmp_path: Path, change: Change
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(changed(exported(tmp_path), change))
    load(TENSORRT_RTX).log.clear()
    with pytest.raises(InputError, match=BROKEN[change]):
        build_engine(broken, tmp_path / "m.engine", TENSORRT_RTX)
    assert not (tmp_path / "m.engine").exists()


def test_the_command_builds_and_says_that_it_never_ran(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported(tmp_path)
    assert main([str(model), "--batch-sizes", "1", "4", "8"]) == 0
    told = capsys.readouterr()
    engine = model.with_suffix(".tensorrt-rtx.engine")
    assert engine.name in told.out and "1 matrix product" in told.out
    assert "never run on hardware" in told.err
    assert json.loads(sidecar_of(engine).read_text())["batch_sizes"] == [1, 4, 8]


def test_without_a_gpu_the_target_current_is_an_error(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    with pytest.raises((InputError, EngineUnavailable), match="tensorrt-rtx"):
        build_engine(
            exported(tmp_path),
            tmp_path / "m.engine",
            TENSORRT_RTX,
            BuildOptions(compute_capabilities=("current",)),
        )
