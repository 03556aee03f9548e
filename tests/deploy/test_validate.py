"""`python -m deploy.validate`: the device's gate with an engine that is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from deploy.core.engine_protocol import Certified
from deploy.core.json_schema import load_schema
from deploy.core.stored_zip import write_stored_zip
from deploy.device.command import main as device_main
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.engine import ENGINES
from deploy.validate import main
from tests.deploy.device.conftest import contents, files, rehashed

__all__ = ["contents", "files"]  # fixtures


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("report.json").read_text())
    jsonschema.validate(found, load_schema("validation-report-2", "deploy.device"))
    return found


def test_engines_by_name(
    files: dict[str, bytes], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stored_zip(here / "b.qbundle", files)
    assert main(["b.qbundle", "--engine", "onnxruntime"]) == 0
    capsys.readouterr()
    assert main(["b.qbundle", "--engine", "abacus"]) == 4
    assert "available: litert, onnxruntime" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(ENGINES.keys() - {"onnxruntime"}))
def test_an_engine_without_a_model_in_the_bundle(
    name: str, files: dict[str, bytes], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stored_zip(here / "b.qbundle", files)
    assert main(["b.qbundle", "--engine", name]) == 2
    assert f"no model for {name}; it has models for onnxruntime" in capsys.readouterr().err


def test_an_engine_file_is_for_engines_that_have_such(
    files: dict[str, bytes], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stored_zip(here / "b.qbundle", files)
    assert main(["b.qbundle", "--engine-file", "m.engine"]) == 4
    assert "no setting engine_file" in capsys.readouterr().err


class Told(OnnxRuntimeEngine):
    """An engine beside ONNX Runtime's that knows its layers and has something to say."""

    version, note = "1.2", "never run on hardware"
    kinds: Mapping[str, int] = {"convolution": 3}

    def kinds_that_ran(self) -> Mapping[str, int]:
        return self.kinds

    def tells_every_layer(self) -> bool:
        return True


class HalfTold(Told):
    """One that says nothing of sums and pools."""

    def tells_every_layer(self) -> bool:
        return False


def told_bundle(files: dict[str, bytes], kinds: Mapping[str, int] | None) -> dict[str, bytes]:
    def change(manifest: dict[str, Any]) -> None:
        model = dict(manifest["models"]["onnxruntime"])
        model["certificate"] = kinds and {"engine": "told", "machine": "lab", "kinds": dict(kinds)}
        manifest["models"]["told"] = model

    return rehashed(files, change)


@pytest.mark.parametrize("kinds", [None, {"convolution": 3}])
def test_version_note_and_layers_of_an_engine_are_in_the_report(
    kinds: Mapping[str, int] | None,
    files: dict[str, bytes],
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert issubclass(Told, Certified)
    write_stored_zip(here / "b.qbundle", told_bundle(files, kinds))
    words = ["b.qbundle", "--engine", "told", "--markdown", "summary.md"]
    assert device_main(words, engines={"told": Told}) == 0
    out = capsys.readouterr().out
    assert "never run on hardware" in out and "all in integers: 3 convolution" in out
    engine = report()["engine"]
    assert (engine["version"], engine["note"]) == ("1.2", "never run on hardware")
    assert report()["certificate"] == {"convolution": 3}
    assert "never run on hardware" in Path("summary.md").read_text()


def test_an_engine_that_tells_of_some_layers_alone_is_not_known_to_run_integers(
    files: dict[str, bytes], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stored_zip(here / "b.qbundle", told_bundle(files, {"convolution": 3}))
    for engine, code in ((Told, 0), (HalfTold, 1)):
        words = ["b.qbundle", "--engine", "told", "--require-integer"]
        assert device_main(words, engines={"told": engine}) == code
    assert "in integers: 3 convolution; this engine does not report" in capsys.readouterr().out
    assert "not known to be an integer model" in report()["reason"]


def test_other_layers_than_in_the_lab_are_exit_code_2(
    files: dict[str, bytes], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stored_zip(here / "b.qbundle", told_bundle(files, {"convolution": 4}))
    assert device_main(["b.qbundle", "--engine", "told"], engines={"told": Told}) == 2
    assert "the graph is another one" in capsys.readouterr().err
