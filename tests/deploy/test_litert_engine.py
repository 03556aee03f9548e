"""LiteRT's engine and its gate: right, tampered, without the package, on another processor."""

from __future__ import annotations

import dataclasses
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy import litert_engine
from deploy.bundle import bundle_files
from deploy.bundle_contents import BundleContents, BundleModel
from deploy.core.engine_protocol import Certified, Engine
from deploy.core.errors import EngineUnavailable, InputError, UsageError
from deploy.core.host import host_facts
from deploy.core.stored_zip import write_stored_zip
from deploy.core.tflite_file import read_tflite
from deploy.device.profile_check import profiled_run
from deploy.engine import open_engine, version_of
from deploy.litert_engine import KERNELS, LiteRtEngine
from deploy.validate import main
from export.litert_builder import with_outputs
from export.lowering import lower
from export.qonnx_from_network import write_qonnx
from export.reference import IntegerReference, LiteRtReference
from tests.deploy.core.test_tflite_file import one_convolution
from tests.deploy.device.conftest import contents, rehashed
from tests.export.small_qonnx import small_qonnx
from tests.export.test_any_network import calibrated, images_of
from tests.export.test_network_lowering import fields, network

__all__ = ["contents"]  # a fixture

NAME = "dense"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("litert")
    source = write_qonnx(network("resnet8", 4), 4, folder / "q.onnx")
    return lower(source, folder / "litert-4.tflite", target="litert").path


@pytest.mark.parametrize("kernels", KERNELS)
def test_batches_of_any_size_give_the_references_numbers(model: Path, kernels: str) -> None:
    images = fields(6)
    arithmetic = "xnnpack" if kernels == "xnnpack" else "fixed-point"
    expected = LiteRtReference(model, arithmetic=arithmetic).run(images)
    with open_engine("litert", model, threads=2, kernels=kernels) as engine:
        assert isinstance(engine, Engine) and isinstance(engine, Certified)
        assert (engine.name, engine.threads) == (f"litert-{kernels}", 2)
        assert version_of(engine.name) != "unknown"
        for size in (1, 6, 2):
            found = [engine.run(images[start : start + size]) for start in range(0, 6, size)]
            assert np.array_equal(np.concatenate(found), expected)
        assert (engine.predict(images) == expected.argmax(axis=1)).all()
        assert dict(engine.kinds_that_ran())["convolution"] == 9
    with pytest.raises(UsageError, match="is closed"):
        engine.run(images)


def test_a_small_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "small.tflite"
    path.write_bytes(one_convolution(np.ones((2, 3, 3, 3), np.int8)))
    images = np.full((1, 3, 4, 4), 130, np.uint8)  # codes of 2
    with LiteRtEngine(path) as engine:
        logits = engine.run(images)
    # SAME with stride 2 pads right and below alone: windows of 9, 6, 6 and 4 places, 3 channels.
    sums = 2 * 3 * np.array([9, 6, 6, 4])[:, None] + np.array([3, -3])
    codes = np.rint(sums * np.array([0.5, 0.25]) / 64)
    mean = np.rint(codes.mean(axis=0))
    expected = (np.array([[1, 2], [3, -4]]) @ mean) * np.array([0.5, 0.25])
    np.testing.assert_allclose(logits[0], expected, atol=0.005)


def test_files_that_are_not_for_it(model: Path, integer_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a readable \.tflite file"):
        LiteRtEngine(integer_onnx)
    other = tmp_path / "other.tflite"
    other.write_bytes(model.read_bytes()[:-4000])
    with pytest.raises(InputError, match=r"export or copy it again|does not load"):
        LiteRtEngine(other)
    with pytest.raises(UsageError, match="available: xnnpack, reference"):
        LiteRtEngine(model, kernels="cmsis")
    with pytest.raises(UsageError, match="1 to 1024 threads"):
        LiteRtEngine(model, threads=0)
    with pytest.raises(InputError, match="no tensor 'nowhere'"):
        with_outputs(model.read_bytes(), ["nowhere"])


def with_scale(data: bytes, old: float, new: float) -> bytes:
    """The file with one scale, found by its value, changed."""
    forms = [struct.pack("<If", 1, np.float32(one)) for one in (old, new)]
    assert data.count(forms[0]) == 1
    return data.replace(forms[0], forms[1])


def test_a_file_on_which_litert_aborts_ends_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scale of nearly 0 in a sum: LiteRT's own check of its multiplier calls abort()."""
    path, source = tmp_path / "aborting.tflite", tmp_path / "q.onnx"
    source.write_bytes(small_qonnx(np.random.default_rng(0)).SerializeToString())
    whole = lower(source, path, target="litert").path.read_bytes()
    path.write_bytes(with_scale(whole, 0.05 * 17, 1e-38))
    with pytest.raises(
        InputError, match=r"loading .*aborting\.tflite in LiteRT, .* crashed the process .*signal 6"
    ):
        LiteRtEngine(path)
    # What is not a file's fault is said as such, and the same file is loaded apart once only.
    path.write_bytes(whole)
    for _ in range(2):
        LiteRtEngine(path).close()
    monkeypatch.setattr(litert_engine, "REHEARSAL_S", 0.0)
    LiteRtEngine(path).close()
    with pytest.raises(InputError, match=r"had not loaded .*aborting\.tflite after 0 s"):
        LiteRtEngine(path, kernels="reference")


def test_without_the_package(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(EngineUnavailable, match=r"ai-edge-litert .*pip install .*\[litert\]"):
        LiteRtEngine(model)


def test_on_a_processor_whose_arithmetic_is_not_known(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    riscv = dataclasses.replace(host_facts(), machine="riscv64")
    monkeypatch.setattr(litert_engine, "host_facts", lambda: riscv)
    with pytest.raises(EngineUnavailable, match=r"this processor is riscv64.*kernels='reference'"):
        LiteRtEngine(model)
    with LiteRtEngine(model, kernels="reference") as engine:
        assert engine.run(fields(1)).shape == (1, engine.classes)


# ------------------------------------------------------------------ through the validator


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def both(contents: BundleContents, tmp_path_factory: pytest.TempPathFactory) -> BundleContents:
    """The small bundle with another network, as the all-integer file and as LiteRT's."""
    folder = tmp_path_factory.mktemp("both")
    images = images_of(NAME, len(contents.images), seed=9)
    source = write_qonnx(calibrated(NAME), 8, folder / "q.onnx")
    onnx = lower(source, folder / "onnxruntime-8.onnx").path
    litert = lower(source, folder / "litert-8.tflite", target="litert").path
    golden, reference = images[:4], IntegerReference(onnx)
    with LiteRtEngine(litert) as engine:
        labels = engine.predict(images)
        patched = [engine.predict(one.patch_set.paste_on(images)) for one in contents.patches]
        ours = BundleModel(
            path=litert,
            certificate={
                "engine": engine.name,
                "machine": host_facts().machine,
                "kinds": dict(engine.kinds_that_ran()),
            },
            golden_logits=LiteRtReference(litert).run(golden),
        )
    exact = BundleModel(
        path=onnx,
        certificate={
            "engine": "onnxruntime-cpu",
            "machine": host_facts().machine,
            "kinds": profiled_run(onnx, images[:8]).require_integers(),
        },
    )
    return dataclasses.replace(
        contents,
        bit_width=8,
        classes=[f"class {number}" for number in range(reference.run(golden).shape[1])],
        models={"onnxruntime": exact, "litert": ours},
        images=images,
        labels=labels,
        golden_inputs=golden,
        golden_logits=reference.run(golden),
        golden_codes=reference.codes(golden),
        lab_clean=labels,
        patches=[
            dataclasses.replace(patch, lab=lab)
            for patch, lab in zip(contents.patches, patched, strict=True)
        ],
        thresholds=dataclasses.replace(contents.thresholds, max_asr=0.9, max_drift=0.1),
    )


def said(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    assert main(["b.qbundle", *words]) == code
    found = capsys.readouterr()
    return found.out + found.err


def test_the_validator_runs_it_bit_for_bit(
    both: BundleContents, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stored_zip(here / "b.qbundle", bundle_files(both))
    text = said(capsys, 0, "--engine", "litert")
    assert "litert-xnnpack" in text and "all in integers: " in text
    assert "largest difference of logits 0, 0 flips" in text
    assert "golden logits equal bit for bit" in text
    assert "4 images" in said(capsys, 0, "--engine", "onnxruntime")


def test_the_validator_refuses_a_tampered_model(
    both: BundleContents, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = bundle_files(both)
    name = "models/litert-8.tflite"
    data = bytearray(parts[name])
    weights = next(one for one in read_tflite(bytes(data)).tensors if one.name.endswith(".w"))
    assert weights.data is not None
    place = bytes(data).index(weights.data)
    data[place : place + 64] = bytes(byte ^ 0x55 for byte in weights.data[:64])
    tampered = {**parts, name: bytes(data)}
    write_stored_zip(here / "b.qbundle", tampered)
    assert "it was changed or replaced" in said(capsys, 2, "--engine", "litert")
    # Hashes that were made to fit do not help: the numbers are others.
    write_stored_zip(here / "b.qbundle", rehashed(tampered))
    assert "differs from the golden logits" in said(capsys, 2, "--engine", "litert")
    # Nor does a file that holds something else.
    write_stored_zip(here / "b.qbundle", rehashed({**parts, name: parts["images/images.npz"]}))
    assert "not a readable .tflite file" in said(capsys, 2, "--engine", "litert")


def test_the_validator_without_the_package(
    both: BundleContents,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_stored_zip(here / "b.qbundle", bundle_files(both))
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    text = said(capsys, 2, "--engine", "litert")
    assert "the engine 'litert' needs the package ai-edge-litert" in text
    assert "Traceback" not in text
