"""Which machines a bundle names: those whose reports are of its very parts and its very logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.bundle import bundle_files, write_bundle
from deploy.bundle_contents import BundleContents, BundleModel
from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes
from deploy.core.host import host_facts
from deploy.core.json_schema import load_schema
from deploy.core.model_engine import run_all
from deploy.core.npz import npz_bytes
from deploy.core.stored_zip import write_stored_zip
from deploy.device.bundle_reading import Bundle
from deploy.device.command import main
from deploy.device.golden import logits_bytes
from deploy.device.machine_proof import machine_entry, proof_line
from deploy.device.manifest import ModelFacts
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.machine_proof import DeviceReports
from tests.deploy.device.conftest import rehashed

ENGINE = "onnxruntime"


@pytest.fixture(scope="module")
def report(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the validator wrote here of the bundle without reports; copy before changing."""
    folder = tmp_path_factory.mktemp("device")
    write_stored_zip(folder / "model.qbundle", files)
    words = [str(folder / "model.qbundle"), "--junit", str(folder / "junit.xml")]
    assert main([*words, "--json", str(folder / "report.json")]) == 0
    return dict(json.loads((folder / "report.json").read_text()))


@pytest.fixture(scope="module")
def logits(contents: BundleContents) -> np.ndarray:
    """float32 N×C, of all images."""
    with OnnxRuntimeEngine(contents.models[ENGINE].path) as engine:
        return run_all(engine, contents.images)


@pytest.fixture
def with_reports(contents: BundleContents, logits: np.ndarray) -> Callable[..., BundleContents]:
    def proved(*reports: Path) -> BundleContents:
        model = contents.models[ENGINE]
        lab = machine_entry(
            host_facts().as_record(), engine="lab", engine_version="1", golden_images=4, images=240
        )
        given = DeviceReports(
            lab=lab, logits_sha256=sha256_of_bytes(logits_bytes(logits)), reports=reports
        )
        fields = {**model.__dict__, "device_reports": given}
        return replace(contents, models={ENGINE: BundleModel(**fields)})

    return proved


def saved(path: Path, report: dict[str, Any], **changes: Any) -> Path:
    """The report in a file, fields named PART__KEY changed."""
    report = json.loads(json.dumps(report))
    for name, value in changes.items():
        part, _, key = name.partition("__")
        if key:
            report[part][key] = value
        else:
            report[part] = value
    path.write_text(json.dumps(report))
    return path


def on_a_board(path: Path, report: dict[str, Any], **more: Any) -> Path:
    host = {"machine": "aarch64", "cpu_model": "Board", "instruction_sets": ["asimd"]}
    return saved(path, report, host={**report["host"], **host}, **more)


def test_the_report_tells_what_was_run_and_what_it_gave(
    report: dict[str, Any], files: dict[str, bytes], contents: BundleContents, logits: np.ndarray
) -> None:
    listed = json.loads(files["manifest.json"])["files"]
    model = contents.models[ENGINE].path.read_bytes()
    assert report["engine"]["model"] == ENGINE
    assert report["engine"]["model_sha256"] == sha256_of_bytes(model)
    assert report["golden"]["file_sha256"] == listed["golden/golden.npz"]["sha256"]
    assert report["images"]["file_sha256"] == listed["images/images.npz"]["sha256"]
    golden = sha256_of_bytes(logits_bytes(contents.golden_logits))
    assert report["golden"]["logits_sha256"] == golden
    assert report["clean"]["logits_sha256"] == sha256_of_bytes(logits_bytes(logits))


def test_a_bundle_names_the_machines_of_its_reports(
    with_reports: Callable[..., BundleContents],
    report: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    monkeypatch.chdir(tmp_path)
    board = on_a_board(tmp_path / "board.json", report, exit_code=1, outcome="fail")
    quick = on_a_board(
        tmp_path / "quick.json",
        report,
        quick=True,
        clean={**report["clean"], "logits_sha256": None},
        engine={**report["engine"], "version": "0.1"},
    )
    contents = with_reports(board, quick, board)
    write_bundle(tmp_path / "model.qbundle", contents)
    with Bundle(tmp_path / "model.qbundle") as bundle:
        jsonschema.validate(bundle.manifest.raw, load_schema("bundle-manifest-1", "deploy.device"))
        model = bundle.manifest.models[ENGINE]
    assert set(model.logits_identical_on) == {"aarch64", "x86_64", host_facts().machine}
    assert model.machine_proof is not None
    machines = model.machine_proof["machines"]
    assert len(machines) == 3  # the same report twice is one machine
    proved = {(one["engine_version"], one["golden_images"], one["images"]) for one in machines}
    assert proved == {("1", 4, 240), (report["engine"]["version"], 4, 240), ("0.1", 4, 0)}

    assert main(["model.qbundle"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("proof ")]
    assert "aarch64 (Board; onnxruntime-cpu 0.1; 4 golden and 0 more images)" in line
    assert f"this machine: {host_facts().machine}, golden logits equal bit for bit" in line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engine__model_sha256": "1" * 64}, "another model file"),
        ({"engine__model": "tensorrt"}, "another model (tensorrt)"),
        ({"golden__file_sha256": "1" * 64}, "another golden file"),
        ({"images__file_sha256": "1" * 64}, "another image file"),
        ({"golden__logits_sha256": "1" * 64}, "logits of the golden images"),
        ({"clean__logits_sha256": "1" * 64}, "logits of the images"),
        ({"clean__logits_sha256": None}, "does not state logits_sha256"),
        ({"exit_code": 2, "outcome": "error", "reason": "broke"}, "proves nothing: broke"),
        ({"golden": None}, "does not state file_sha256"),
        ({"host": None}, "does not state emulated"),
        ({"format": "other"}, "is not a report.json"),
        ({"format_version": 3}, "format version '3'"),
        ({"quick": 1}, "quick: expected boolean"),
        ({"host__machine": 7}, "host.machine: expected string"),
    ],
)
def test_a_report_that_proves_nothing_of_this_bundle_is_refused(
    changes: dict[str, Any],
    said: str,
    with_reports: Callable[..., BundleContents],
    report: dict[str, Any],
    tmp_path: Path,
) -> None:
    wrong = saved(tmp_path / "wrong.json", report, **changes)
    with pytest.raises(InputError) as refused:
        write_bundle(tmp_path / "model.qbundle", with_reports(wrong))
    assert said in str(refused.value)
    assert "wrong.json" in str(refused.value)
    assert not (tmp_path / "model.qbundle").exists()


def test_a_report_of_an_older_validator_is_refused(
    with_reports: Callable[..., BundleContents], report: dict[str, Any], tmp_path: Path
) -> None:
    engine = {key: report["engine"][key] for key in ("name", "version", "threads")}
    old = saved(tmp_path / "old.json", report, engine=engine)
    with pytest.raises(InputError, match="older validator"):
        bundle_files(with_reports(old))


def test_other_logits_of_the_images_than_the_proved_ones_are_exit_code_2(
    with_reports: Callable[..., BundleContents],
    report: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["models"][ENGINE]["machine_proof"]["logits_sha256"] = "1" * 64

    monkeypatch.chdir(tmp_path)
    parts = bundle_files(with_reports(on_a_board(tmp_path / "board.json", report)))
    write_stored_zip(tmp_path / "model.qbundle", rehashed(parts, change))
    assert main(["model.qbundle"]) == 2
    assert "does not compute what the lab measured" in capsys.readouterr().err
    assert main(["model.qbundle", "--quick"]) == 0  # which has no logits of all images


def test_one_bit_of_a_golden_logit_is_exit_code_2(
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_stored_zip(tmp_path / "model.qbundle", rehashed(with_one_bit_changed(files)))
    assert main(["model.qbundle"]) == 2
    assert "differs from the golden logits" in capsys.readouterr().err


def with_one_bit_changed(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same files with the lowest bit of the first golden logit the other way round."""
    import io

    with np.load(io.BytesIO(files["golden/golden.npz"])) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["logits"] = arrays["logits"].copy()
    arrays["logits"].view(np.uint32)[0, 0] ^= 1
    return {**files, "golden/golden.npz": npz_bytes(arrays)}


def test_the_line_without_a_proof() -> None:
    facts: dict[str, Any] = {"file": "m", "max_logit_difference": 0.5, "max_flips": 0}
    host = replace(host_facts(), machine="aarch64", emulated=True)
    lab = ModelFacts(**facts, certificate=None, logits_identical_on=("x86_64",))
    assert proof_line(lab, host, equal_here=False) == (
        "logits proved identical on: x86_64 (lab); this machine: aarch64 emulated, golden logits "
        "within the budget, not equal"
    )
    nowhere = ModelFacts(**facts, certificate=None, logits_identical_on=())
    assert "identical on: no machine;" in proof_line(nowhere, host, equal_here=True)
