"""`qadtr bundle` on a real run, and the validator on what it wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.device.bundle_reading import Bundle
from qadtr.__main__ import main

pytestmark = pytest.mark.slow


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

    capsys.readouterr()
    for more, code, said in (
        (["--gate", "nothing"], 4, "no patch set nothing"),
        (["--max-asr", "30"], 4, "--max-asr"),
        (["--patches", str(tmp_path / "none")], 2, "none"),
    ):
        assert main([*words, "--out", str(tmp_path / "other"), *more]) == code
        assert said in capsys.readouterr().err
    assert main(["bundle", str(run), "--bits", "8", "--out", str(tmp_path / "other")]) == 2
    assert "qadtr export" in capsys.readouterr().err
    assert main(["bundle", str(run), "--bits", "32", "--out", str(tmp_path / "other")]) == 4
    assert not (tmp_path / "other").exists()
