"""`qadtr bundle` on a real run, and the validator on what it wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.core.records import read_record, write_record
from deploy.device.bundle_reading import Bundle
from deploy.validate import main as validate
from qadtr.__main__ import main


def test_from_a_run_to_a_verdict(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(exported, tmp_path / "run"))
    patch = ["patch", str(run), "--steps", "2", "--images", "40"]
    assert main([*patch, "--attack", "lavan", "--size", "6"]) == 0
    words = ["bundle", str(run), "--bits", "4", "--max-asr", "0.99"]
    assert main([*words, "--out", str(tmp_path / "model.qbundle")]) == 0
    assert main([*words, "--out", str(tmp_path / "folder"), "--folder"]) == 0
    with Bundle(tmp_path / "model.qbundle") as bundle:
        (facts,) = bundle.manifest.patches
        assert (facts.attack, facts.gated) == ("lavan", True)
        assert facts.source is not None
        assert facts.source["network"] == "resnet8"
        assert bundle.manifest.images["n"] == 40
        assert bundle.manifest.models["onnxruntime"].certificate is not None

    capsys.readouterr()
    assert main([*words, "--images", "15", "--out", str(tmp_path / "small")]) == 0
    with Bundle(tmp_path / "small") as bundle:
        assert bundle.manifest.images["n"] == 15
        sizes = sum(facts.size_bytes for facts in bundle.manifest.files.values())
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith(f"{sizes / 1e6:.2f} MB: ")
    assert all(part in line for part in ("images 0.", "patches 0.", "models 0.", "validator 0."))
    reports = ["--json", str(tmp_path / "small.json"), "--junit", str(tmp_path / "small.xml")]
    assert validate([str(tmp_path / "small"), *reports]) in (0, 1, 3)

    assert main(["validator", "--out", str(tmp_path / "validate.pyz")]) == 0
    for name in ("model.qbundle", "folder"):
        done = subprocess.run(
            [sys.executable, "validate.pyz", name, "--max-drift", "0.5"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        report = json.loads((tmp_path / "report.json").read_text())
        assert done.returncode == report["exit_code"], done.stderr
        assert report["exit_code"] in (0, 1, 3), report["reason"]
        assert report["golden"]["largest_difference"] == 0.0
        assert report["patches"][0]["asr"]["n"] > 0

    proved = [*words, "--device-report", str(tmp_path / "report.json")]
    assert main([*proved, "--out", str(tmp_path / "proved.qbundle")]) == 0
    with Bundle(tmp_path / "proved.qbundle") as bundle:
        proof = bundle.manifest.models["onnxruntime"].machine_proof
    assert proof is not None
    assert proof["logits_sha256"] == report["clean"]["logits_sha256"]
    (machine,) = proof["machines"]  # the lab and the device are one here
    assert (machine["golden_images"], machine["images"]) == (8, 40)

    with_attack_checks(run, words, tmp_path, capsys)
    with_openvino(run, words, tmp_path)
    with_litert(run, words, tmp_path, capsys)
    with_patches_of_two_networks(run, words, tmp_path)
    capsys.readouterr()
    for more, code, said in (
        (["--engines", "openvino"], 2, "--target qcdq"),
        (["--engines", "abacus"], 2, "unknown engine 'abacus'"),
        (["--gate", "nothing"], 4, "unknown patch set nothing"),
        (["--golden", "9", *proved[-2:]], 2, "report.json is the report on another golden file"),
        (["--patches", str(tmp_path / "none")], 2, "none"),
    ):
        assert main([*words, "--out", str(tmp_path / "other"), *more]) == code
        assert said in capsys.readouterr().err
    assert main(["bundle", str(run), "--bits", "8", "--out", str(tmp_path / "other")]) == 2
    assert "qadtr export" in capsys.readouterr().err
    assert main(["bundle", str(run), "--bits", "32", "--out", str(tmp_path / "other")]) == 4
    assert not (tmp_path / "other").exists()


def with_patches_of_two_networks(run: Path, words: list[str], folder: Path) -> None:
    """The manifest names them in one line; its schema has no place for a list of members."""
    file = folder / "both.npz"
    patch = ["patch", str(run), "--with", str(run), "--attack", "lavan", "--size", "6"]
    assert main([*patch, "--steps", "2", "--images", "20", "--out", str(file)]) == 0
    out = folder / "both.qbundle"
    assert main([*words, "--patches", str(file), "--out", str(out)]) == 0
    with Bundle(out) as bundle:
        (facts,) = bundle.manifest.patches
    assert facts.source is not None
    assert (facts.source["network"], facts.source["seed"]) == ("resnet8 + resnet8", None)


def with_attack_checks(
    run: Path, words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundle carries the verdict on this network at this bit-width; compare and drift ask."""
    out = folder / "checked.qbundle"
    before = folder / "before"
    assert main(["eval", str(run), "--patches", str(run / "patches"), "--no-latency"]) == 0
    shutil.copytree(run / "records", before)
    few = ["--images", "24", "--set", "steps=2", "--set", "size_px=6"]
    assert main(["checks", str(run), "--bits", "4", "--only", "zero-gradients", *few]) == 0
    (path,) = (run / "records").glob("attack-checks-*.json")
    payload = read_record(path)["payload"]
    for check in payload["checks"]:
        check["status"] = "tripped" if check["name"] == "zero-gradients" else "passed"
    path.unlink()
    write_record(run / "records", "attack-checks", payload, {})
    assert main([*words, "--out", str(out)]) == 0
    with Bundle(out) as bundle:
        assert bundle.manifest.attack_checks.tripped == ("zero-gradients",)
    capsys.readouterr()
    assert main(["drift", str(out), str(run)]) == 0
    said = capsys.readouterr().out
    assert said.count("%†") == 5  # lab, rounding, preprocessing, export, engine
    assert "attack checks: TRIPPED: zero-gradients; 14 passed" in said
    assert main(["compare", str(before), str(run / "records")]) == 0
    said = capsys.readouterr().out
    assert (
        "4-bit onnxruntime-cpu: old result not checked -> new result TRIPPED: zero-gradients"
        in said
    )
    assert "32-bit onnxruntime-cpu: old result not checked -> new result not checked" in said
    assert said.count("%†") == 1


GPU_ENGINES = ("onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx", "tensorrt", "tensorrt-rtx")


PLUGIN = "onnxruntime-openvino"


def with_litert(
    run: Path, words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LiteRT's file has its certificate and parity, and no budget: on the device too."""
    assert main(["export", str(run), "--images", "96", "--target", "litert"]) == 0
    assert not (run / "export" / "litert-32.tflite").exists()  # no float baseline
    file = run / "export" / "litert-4.tflite"
    sidecar = json.loads(file.with_suffix(".json").read_text())
    assert sidecar["budget"] == {"max_logit_difference": 0.0, "max_flip_share": 0.0}
    assert sidecar["guarantees"] == ["only operators of the target", "integers throughout"]
    certificate = json.loads(file.with_suffix(".certificate.json").read_text())
    assert certificate["ok"] is True and certificate["engine"] == "litert-xnnpack"
    assert main(["export", str(run), "--images", "8", "--bits", "32", "--target", "litert"]) == 2
    assert "no float baseline" in capsys.readouterr().err
    parity = ["parity", str(run), "--bits", "4", "--images", "32", "--target", "litert"]
    assert main([*parity, "--least-agreement", "0.8", "--html", str(folder / "p.html")]) == 0
    assert "0 of 320 logits differ between litert-xnnpack" in capsys.readouterr().out
    out = folder / "litert.qbundle"
    assert main([*words, "--out", str(out), "--engines", "litert"]) == 0
    with Bundle(out) as bundle:
        facts = bundle.manifest.models["litert"]
    assert (facts.file, facts.max_logit_difference) == ("models/litert-4.tflite", 0.0)
    assert (facts.max_flips, facts.golden_logits) == (0, "logits-litert")
    assert facts.certificate is not None and facts.certificate["kinds"]["convolution"] == 9
    report = folder / "litert.json"
    command = ["--engine", "litert", "--max-drift", "0.5", "--json", str(report)]
    command += ["--junit", str(folder / "litert.xml")]
    assert validate([str(out), *command]) in (0, 1, 3)
    found = json.loads(report.read_text())
    assert found["golden"]["largest_difference"] == 0.0
    assert found["certificate"]["convolution"] == 9
    assert found["engine"]["version"] not in (None, "unknown")


def with_openvino(run: Path, words: list[str], folder: Path) -> None:
    """A bundle for OpenVINO too: its budget is in the manifest, and the validator enforces it."""
    assert main(["export", str(run), "--images", "32", "--bits", "4", "--target", "qcdq"]) == 0
    out = folder / "two.qbundle"
    assert main([*words, "--out", str(out), "--engines", "openvino", PLUGIN]) == 0
    sidecar = json.loads((run / "export" / "qcdq-4.json").read_text())
    with Bundle(out) as bundle:
        facts = bundle.manifest.models["openvino"]
        assert facts.max_logit_difference == sidecar["budget"]["max_logit_difference"] > 0.0
        assert (facts.max_flips, facts.golden_logits) == (1, "logits-openvino")
        assert bundle.manifest.models["onnxruntime"].golden_logits == "logits"
    report = folder / "openvino.json"
    command = ["--engine", "openvino", "--max-drift", "0.5", "--json", str(report)]
    command += ["--junit", str(folder / "openvino.xml")]
    assert validate([str(out), *command]) in (0, 1, 3)
    golden = json.loads(report.read_text())["golden"]
    assert 0.0 <= golden["largest_difference"] <= facts.max_logit_difference

    # The plug-in runs the same file on Intel's processors, and is not passed on others.
    code = validate([str(out), "--engine", PLUGIN, *command[2:]])
    told = json.loads(report.read_text())
    if code == 2:
        assert "an Intel processor" in told["reason"] or "no VNNI" in told["reason"]
    else:
        assert told["golden"]["largest_difference"] <= facts.max_logit_difference
        assert told["certificate"]["convolution"] == 9

    # TensorRT's engines share one file; where there is no GPU it goes along, and is not passed.
    assert main(["export", str(run), "--images", "32", "--bits", "4", "--target", "tensorrt"]) == 0
    out = folder / "gpu.qbundle"
    assert main([*words, "--out", str(out), "--engines", *GPU_ENGINES]) == 0
    with Bundle(out) as bundle:
        models = bundle.manifest.models
        assert len({models[name].file for name in GPU_ENGINES}) == 1
        assert all(models[name].max_logit_difference > 0.0 for name in GPU_ENGINES)
    for name in GPU_ENGINES:
        code = validate([str(out), "--engine", name, *command[2:]])
        told = json.loads(report.read_text())
        if code == 2:
            missing = (
                "pip install",
                "no CUDA driver",
                "onnxruntime-gpu has it",
                "needs an NVIDIA GPU",
            )
            assert any(text in told["reason"] for text in missing), told["reason"]
        else:
            assert "hardware" in told["engine"]["note"]

    # The file of another sidecar, and one whose file was changed after its proof.
    path = run / "export" / "qcdq-4.onnx"
    data = path.read_bytes()
    path.write_bytes(data + b"\x00\x00")
    assert main([*words, "--out", str(folder / "other"), "--engines", "openvino"]) == 2
    path.unlink()
