"""`qadtr drift` on a real run and its bundle, with what a device told and without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from deploy.core.files import sha256_of
from deploy.core.npz import npz_bytes
from deploy.core.outcomes import pack_bits, unpack_bits
from deploy.core.records import read_records
from deploy.core.strict_json import write_json
from deploy.device.bundle_reading import Bundle
from deploy.device.command import main as validate
from deploy.device.suite import read_suite
from eval.measure.drift.chain import pasted
from eval.measure.drift.drift_record import KIND, DriftRecord
from qadtr.__main__ import main
from training.record_types import payloads


@pytest.fixture(scope="module")
def deployed(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with a bundle of it."""
    folder = tmp_path_factory.mktemp("drift")
    run = Path(shutil.copytree(exported, folder / "run"))
    patch = ["patch", str(run), "--steps", "4", "--images", "60"]
    assert main([*patch, "--attack", "lavan", "--size", "8"]) == 0
    bundle = folder / "model.qbundle"
    assert main(["bundle", str(run), "--bits", "4", "--out", str(bundle)]) == 0
    return bundle, run


def test_no_drift_then_a_devices_own(
    deployed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, run = deployed
    words = ["drift", str(bundle), str(run)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "rounding" in said
    assert "in the record" not in said
    (plain,) = payloads(read_records(run / "records"), KIND, DriftRecord)
    assert [step["name"] for step in plain["steps"]] == [
        "rounding",
        "preprocessing",
        "export",
        "engine",
    ]
    assert plain["steps"][0]["flips_n"] == plain["steps"][1]["flips_n"] == 0
    assert plain["steps"][3]["flips_n"] == 0
    assert plain["lab_changed"] == 0

    report = tmp_path / "report.json"
    reports = ["--json", str(report), "--junit", str(tmp_path / "junit.xml")]
    validate([str(bundle), "--quick", *reports])
    assert main([*words, "--device-report", str(report)]) == 0
    assert "device" in capsys.readouterr().out
    # A device whose engine computes something else: three images won that it should not have.
    raw = json.loads(report.read_text())
    told = raw["patches"][0]["outcomes"]
    flags = {key: unpack_bits(told[key], told["n"]) for key in ("eligible", "success")}
    changed = np.flatnonzero(flags["eligible"] & ~flags["success"])[:3]
    assert len(changed) == 3
    flags["success"][changed] = True
    right = unpack_bits(told["patched_correct"], told["n"])
    right[changed] = False
    told |= {"success": pack_bits(flags["success"]), "patched_correct": pack_bits(right)}
    write_json(report, raw)
    page = tmp_path / "drift.html"
    assert main([*words, "--device-report", str(report), "--html", str(page)]) == 0
    assert "images flipped by: " in capsys.readouterr().out
    records = payloads(read_records(run / "records"), KIND, DriftRecord)
    (mended,) = [one for one in records if one["steps"][-1]["flips_n"]]
    assert mended["steps"][-1]["name"] == "device"
    first = told["first_index"]
    indices = told["indices"] or list(range(first, first + told["n"]))
    assert [flip["index"] for flip in mended["steps"][-1]["flips"]] == sorted(
        indices[i] for i in changed
    )
    assert mended["drift_points"] == pytest.approx(
        sum(step["asr_points"] for step in mended["steps"])
    )
    html = page.read_text()
    assert html.count("<figure>") == sum(step["flips_n"] for step in mended["steps"])
    assert "data:image/png;base64," in html
    assert "<script" not in html

    raw["bundle"]["manifest_sha256"] = "0" * 64
    write_json(report, raw)
    assert main([*words, "--device-report", str(report)]) == 2
    assert "another bundle" in capsys.readouterr().err


def test_a_program_that_feeds_darker_images(
    deployed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, run = deployed
    with Bundle(bundle) as opened:
        suite = read_suite(opened)
    dark = {"clean": suite.images // 2, "patched-0": pasted(suite, 0) // 2}
    (tmp_path / "inputs.npz").write_bytes(npz_bytes(dark))
    words = ["drift", str(bundle), str(run), "--device-inputs", str(tmp_path / "inputs.npz")]
    page = tmp_path / "drift.html"
    assert main([*words, "--html", str(page)]) == 0
    assert "preprocessing (" in capsys.readouterr().out
    assert "as the device fed it" in page.read_text()


def test_the_model_of_another_engine_has_a_reference_of_its_own(
    deployed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = deployed
    bundle, report = tmp_path / "both.qbundle", tmp_path / "report.json"
    assert main(["export", str(run), "--bits", "4", "--images", "32", "--target", "litert"]) == 0
    words = ["--bits", "4", "--engines", "onnxruntime", "litert", "--out", str(bundle)]
    assert main(["bundle", str(run), *words]) == 0
    drift = ["drift", str(bundle), str(run), "--engine", "litert"]
    assert main(drift) == 0
    reports = ["--json", str(report), "--junit", str(tmp_path / "junit.xml")]
    validate([str(bundle), *reports])
    capsys.readouterr()
    assert main([*drift, "--device-report", str(report)]) == 2
    assert "compare with --engine onnxruntime" in capsys.readouterr().err


def test_what_does_not_belong_together(
    deployed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, run = deployed
    assert main(["drift", str(bundle), str(run), "--engine", "openvino"]) == 2
    assert "no model for openvino" in capsys.readouterr().err
    assert main(["drift", str(tmp_path / "none"), str(run)]) == 2
    other = Path(shutil.copytree(run, tmp_path / "other"))
    sidecar = json.loads((other / "checkpoint.json").read_text())
    weights = other / "checkpoint.safetensors"
    # Any other bytes: the checkpoint is known by its hash.
    save_file(load_file(weights), weights, metadata={"more": "than before"})
    sidecar["sha256"] = sha256_of(weights)
    write_json(other / "checkpoint.json", sidecar)
    assert main(["drift", str(bundle), str(other)]) == 2
    assert "give the run that the bundle was made from" in capsys.readouterr().err
