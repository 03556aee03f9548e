"""Each engine through the validator: right, tampered, without its package, on another processor."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deploy import litert_engine
from deploy.bundle import bundle_files
from deploy.bundle_contents import BundleContents, BundleModel, BundlePatch, Thresholds
from deploy.core.errors import EngineUnavailable
from deploy.core.host import Host, host_facts
from deploy.core.model_contents import target_of
from deploy.core.stored_zip import write_stored_zip
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.device.profile_check import profiled_run
from deploy.engine import ENGINES
from deploy.litert_engine import LiteRtEngine
from deploy.tensorrt.bindings import load
from deploy.tensorrt.cuda import Device
from deploy.validate import main
from export.reference import IntegerReference, LiteRtReference, QdqReference
from tests.deploy.device.conftest import patch_set, rehashed
from tests.deploy.tensorrt.qdq_files import exported

N, GOLDEN = 40, 4

MODULES = {
    "litert": "ai_edge_litert",
    "onnxruntime": "onnxruntime",
    "onnxruntime-openvino": "onnxruntime_ep_openvino",
    "onnxruntime-tensorrt": "",  # a provider that onnxruntime is built with, or is not
    "onnxruntime-tensorrt-rtx": "onnxruntime_ep_nv_tensorrt_rtx",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx_bindings",
}
"""What each engine imports."""

NOT_HERE = {
    "onnxruntime-openvino": r"an Intel processor|no VNNI",
    "onnxruntime-tensorrt": r"no TensorrtExecutionProvider; available: .*onnxruntime-gpu",
    "onnxruntime-tensorrt-rtx": r"needs the package .*\[rtx-ep\]|an NVIDIA GPU .* and its driver",
    "tensorrt": r"needs the package tensorrt .*pip install tensorrt|no CUDA driver on this machine",
    "tensorrt-rtx": r"needs the package tensorrt-rtx.*\[rtx\]|no CUDA driver on this machine",
}
"""Engines whose hardware or package a machine may lack, and what they say there."""


def test_every_engine_is_in_these_tables() -> None:
    assert MODULES.keys() == ENGINES.keys()
    assert NOT_HERE.keys() == ENGINES.keys() - {"litert", "onnxruntime", "openvino"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A bundle with a model for each engine, of one network, which is always right."""
    folder = tmp_path_factory.mktemp("every")
    targets = {target_of(name) for name in ENGINES}
    paths = {target: exported(folder, 8, target) for target in targets - {"litert"}}
    paths["litert"] = exported(folder, 8, "litert").rename(folder / "litert-8.tflite")
    integer = paths["onnxruntime"]
    with OnnxRuntimeEngine(integer) as engine:
        images = np.random.default_rng(1).integers(0, 256, (N, *engine.input_shape), np.uint8)
        labels = engine.predict(images)
        quiet = patch_set("quiet", 1, 128, N)
        patched = engine.predict(quiet.paste_on(images))
        classes = engine.classes
    golden, reference = images[:GOLDEN], IntegerReference(integer)
    with LiteRtEngine(paths["litert"]) as other:
        litert = dict(other.kinds_that_ran())
    machine = host_facts().machine
    models = {
        "onnxruntime": BundleModel(
            path=integer,
            certificate={
                "engine": "onnxruntime-cpu",
                "machine": machine,
                "kinds": profiled_run(integer, golden).require_integers(),
            },
        ),
        "litert": BundleModel(
            path=paths["litert"],
            certificate={"engine": "litert-xnnpack", "machine": machine, "kinds": litert},
            golden_logits=LiteRtReference(paths["litert"]).run(golden),
        ),
    }
    for name in sorted(ENGINES.keys() - models.keys()):
        path = paths[target_of(name)]
        models[name] = BundleModel(
            path=path,
            certificate=None,
            golden_logits=QdqReference(path).run(golden),
            max_logit_difference=1e-2,
            max_flips=0,
        )
    return bundle_files(
        BundleContents(
            name="every engine",
            bit_width=8,
            classes=[f"class {number}" for number in range(classes)],
            models=models,
            images=images,
            labels=labels,
            indices=np.arange(N, dtype=np.int64),
            images_about={"name": "noise", "split": "test", "digest": "0" * 64},
            golden_inputs=golden,
            golden_logits=reference.run(golden),
            golden_codes=reference.codes(golden),
            lab_engine="onnxruntime-cpu",
            lab_clean=labels,
            patches=[BundlePatch(patch_set=quiet, lab=patched)],
            thresholds=Thresholds(max_asr=0.9, max_drift=0.2, min_clean=0.5),
            provenance={"seed": 1},
        )
    )


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The validator writes its reports into the working directory."""
    monkeypatch.chdir(tmp_path)


def validated(
    name: str, parts: Mapping[str, bytes], folder: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Exit code of the validator with an engine, and all that it said."""
    path = folder / "model.qbundle"
    write_stored_zip(path, dict(parts))
    code = main([str(path), "--engine", name])
    found = capsys.readouterr()
    assert "Traceback" not in found.err
    return code, found.out + found.err


@pytest.fixture
def unloaded() -> Iterator[None]:
    """TensorRT's package is imported anew, and after the test again."""
    load.cache_clear()
    yield
    load.cache_clear()


every_engine = pytest.mark.parametrize("name", sorted(ENGINES))


@every_engine
def test_right(
    name: str, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It passes; or it lacks what it needs, which is exit code 2 and no verdict."""
    code, text = validated(name, files, tmp_path, capsys)
    if code == 0:
        assert "0 flips" in text or "bit for bit" in text
        return
    assert code == 2
    assert re.search(NOT_HERE[name], text), text
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["outcome"] == "error" and report["checks"] == []


@every_engine
def test_tampered(
    name: str, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that was changed is refused, before the engine is asked, and so with new hashes is
    one that is of another kind."""
    suffix = ".tflite" if name == "litert" else ".onnx"
    (path,) = (one for one in files if re.search(rf"/{target_of(name)}-8{re.escape(suffix)}$", one))
    changed = bytearray(files[path])
    changed[len(changed) // 2] ^= 1
    code, text = validated(name, {**files, path: bytes(changed)}, tmp_path, capsys)
    assert code == 2 and "it was changed or replaced" in text
    exchanged = rehashed({**files, path: files["images/images.npz"]})
    code, text = validated(name, exchanged, tmp_path, capsys)
    assert code == 2 and re.search(r"not a readable (\.onnx|\.tflite|ONNX) file", text)


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("name", sorted(ENGINES.keys() - {"onnxruntime-tensorrt"}))
def test_without_its_package(
    name: str,
    files: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, MODULES[name], None)
    monkeypatch.setattr("deploy.onnxruntime_plugin._registered", set())
    monkeypatch.setattr(Host, "u8s8_saturates", False)
    code, text = validated(name, files, tmp_path, capsys)
    assert code == 2
    assert f"the engine '{name}' needs the package " in text and "pip install" in text


def test_on_a_processor_whose_products_saturate(
    files: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ONNX Runtime stays exact, OpenVINO runs float32, its plug-in is refused."""
    monkeypatch.setattr(Host, "u8s8_saturates", True)
    code, text = validated("onnxruntime", files, tmp_path, capsys)
    assert code == 0 and "bit for bit" in text
    assert validated("openvino", files, tmp_path, capsys)[0] == 0
    code, text = validated("onnxruntime-openvino", files, tmp_path, capsys)
    assert code == 2 and "no VNNI" in text and "'onnxruntime', which is exact" in text


def test_litert_on_a_processor_whose_arithmetic_is_not_known(
    files: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = SimpleNamespace(machine="riscv64")
    monkeypatch.setattr(litert_engine, "host_facts", lambda: machine)
    code, text = validated("litert", files, tmp_path, capsys)
    assert code == 2 and "this processor is riscv64" in text


@pytest.mark.usefixtures("unloaded")
def test_tensorrt_without_a_gpu(
    files: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its package is NVIDIA's own index's; what is imported of it here is a stand-in."""
    if _gpu():
        pytest.skip("a GPU is here")
    stand_in: Any = SimpleNamespace(__version__="11.4", ILogger=object)
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    code, text = validated("tensorrt", files, tmp_path, capsys)
    assert code == 2 and "no CUDA driver on this machine" in text and "needs an NVIDIA GPU" in text


@pytest.mark.rtx
@pytest.mark.parametrize("name", ["onnxruntime-tensorrt-rtx", "tensorrt-rtx"])
def test_the_packages_of_tensorrt_rtx_without_a_gpu(
    name: str, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real ones, installed: what is missing is the GPU, and that is said."""
    if _gpu():
        pytest.skip("a GPU is here")
    code, text = validated(name, files, tmp_path, capsys)
    assert code == 2
    assert "NVIDIA GPU" in text and "driver" in text and "pip install" not in text


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name", ["onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx", "tensorrt", "tensorrt-rtx"]
)
def test_on_a_gpu(
    name: str, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the package and a GPU it passes, within its budget."""
    code, text = validated(name, files, tmp_path, capsys)
    if re.search("needs the package|has no TensorrtExecutionProvider", text):
        pytest.skip("its package is not here")
    assert code == 0, text
    assert "0 flips" in text


def _gpu() -> bool:
    try:
        Device().close()
    except EngineUnavailable:
        return False
    return True
