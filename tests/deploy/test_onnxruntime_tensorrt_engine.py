"""ONNX Runtime's TensorRT provider: not here, so it is refused; and what would show a fallback."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime
import pytest

from deploy.core.errors import EngineUnavailable, InputError
from deploy.core.images import int8_codes
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.engine import open_engine
from deploy.onnxruntime_tensorrt_engine import (
    PROVIDER,
    OnnxRuntimeTensorRtEngine,
    require_only,
)
from tests.deploy.tensorrt.qdq_files import changed, exported, uint8_zero_point

needs_no_provider = pytest.mark.skipif(
    PROVIDER in onnxruntime.get_available_providers(), reason="the provider is there"
)


@needs_no_provider
def test_without_the_provider_it_says_which_there_are_and_what_brings_it(tmp_path: Path) -> None:
    with pytest.raises(
        EngineUnavailable, match=rf"no {PROVIDER}; available: .*CPU.*onnxruntime-gpu.*TensorRT"
    ):
        open_engine("onnxruntime-tensorrt", exported(tmp_path), threads=2)


@needs_no_provider
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_fell_back_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An onnxruntime that lists the provider and cannot load it goes on with the CPU; so does this.
    named = [PROVIDER, "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: named)
    with pytest.raises((EngineUnavailable, InputError), match=rf"{PROVIDER}|does not load"):
        OnnxRuntimeTensorRtEngine(exported(tmp_path))


def test_a_file_that_tensorrt_would_misread_is_refused_first(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(changed(exported(tmp_path), uint8_zero_point))
    with pytest.raises(InputError, match="is uint8"):
        OnnxRuntimeTensorRtEngine(broken)
    with pytest.raises(InputError, match=r"uint8.*--target tensorrt"):
        OnnxRuntimeTensorRtEngine(exported(tmp_path, target="onnxruntime"))


def test_a_node_in_another_provider_is_named(integer_onnx: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    with OnnxRuntimeEngine(integer_onnx, profile_to=profile) as engine:
        engine.run(np.zeros((2, 3, 8, 8), np.uint8))
    assert require_only("CPUExecutionProvider", profile) >= 4
    with pytest.raises(EngineUnavailable, match=rf"did not run in {PROVIDER}: .*CPUExecution"):
        require_only(PROVIDER, profile)


@pytest.mark.parametrize(("text", "error"), [("[]", EngineUnavailable), ("{}", InputError)])
def test_a_profile_without_nodes_proves_nothing(
    tmp_path: Path, text: str, error: type[Exception]
) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(text)
    with pytest.raises(error):
        require_only(PROVIDER, profile)


def test_the_same_file_on_the_cpu_takes_the_same_codes(tmp_path: Path) -> None:
    """What this engine hands over is what the file wants, in the one provider that is here."""

    class OnCpu(OnnxRuntimeTensorRtEngine):
        providers: ClassVar[dict[str, str]] = {"tensorrt": "CPUExecutionProvider"}

        def _provider_options(self) -> dict[str, str]:
            return {}

        def _options(self, ort: object, optimize: bool) -> object:
            options = super()._options(ort, optimize)
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
            return options

        def _check_providers(self) -> None:
            self._profile_to = None

    images = np.random.default_rng(1).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    model = exported(tmp_path)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = session.run(["logits"], {"images": int8_codes(images)})[0]
    with OnCpu(model) as engine:
        assert engine.name == "onnxruntime-tensorrt"
        assert np.array_equal(engine.run(images), expected)
        assert "never run on hardware" in engine.note
