from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy.core.engine_protocol import Engine
from deploy.core.errors import EngineUnavailable, InputError, QadtrError, UsageError
from deploy.engine import ENGINES, open_engine, version_of


def test_onnxruntime_opens_by_name(integer_onnx: Path, images: np.ndarray) -> None:
    with open_engine("onnxruntime", integer_onnx, threads=2) as engine:
        assert isinstance(engine, Engine)
        assert engine.threads == 2
        assert engine.run(images).shape == (23, engine.classes)


@pytest.mark.parametrize("name", ["tensorrt-8", "onnxruntime-cuda", "", "ort"])
def test_an_engine_that_is_not_there_is_named_with_those_that_are(
    integer_onnx: Path, name: str
) -> None:
    with pytest.raises(EngineUnavailable, match="available: litert, onnxruntime") as caught:
        open_engine(name, integer_onnx)
    assert repr(name) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt"])
def test_an_engine_for_other_files_says_which_it_takes(integer_onnx: Path, name: str) -> None:
    with pytest.raises(InputError, match="qadtr export --target tensorrt"):
        open_engine(name, integer_onnx)


def test_every_listed_engine_exists() -> None:
    assert all(isinstance(engine, type) for engine in ENGINES.values())


def test_an_unknown_setting_names_the_known_ones(integer_onnx: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no setting thread; its settings are threads, profile_to"
    ):
        open_engine("onnxruntime", integer_onnx, thread=2)


def test_a_missing_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_engine("onnxruntime", tmp_path / "none.onnx")


def test_exit_codes() -> None:
    codes = {error.__name__: error.exit_code for error in QadtrError.__subclasses__()}
    expected = {"InputError": 2, "EngineUnavailable": 2, "NothingToEvaluate": 3, "UsageError": 4}
    assert {name: codes[name] for name in expected} == expected
    assert QadtrError.exit_code == 2


@pytest.mark.parametrize(
    ("engine", "distribution"),
    [
        ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings"),
        ("tensorrt-rtx", "tensorrt-rtx-cu13-libs"),
        ("tensorrt", "tensorrt-cu12"),
    ],
)
def test_a_version_is_that_of_the_distribution_that_brings_the_engine(
    engine: str, distribution: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / f"{distribution.replace('-', '_')}-7.8.dist-info" / "METADATA"
    facts.parent.mkdir()
    facts.write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 7.8\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # and none of those installed here
    assert version_of(engine) == "7.8"
    assert version_of("abacus") == "unknown"


def test_versions_of_engines_that_are_here() -> None:
    assert version_of("onnxruntime-cpu") == importlib.metadata.version("onnxruntime")
    assert version_of("openvino-cpu") == importlib.metadata.version("openvino")
    assert version_of("torch") == importlib.metadata.version("torch")
    assert version_of("no-such-engine") == "unknown"
