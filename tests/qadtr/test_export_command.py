"""`qadtr export --target`: several targets at once, each put in place after its own proof."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from deploy.core.files import sha256_of
from deploy.core.records import read_records
from eval.measure.proofs import (
    CERTIFICATE_KIND,
    PARITY_KIND,
    TARGET_PROOF_KIND,
    CertificateRecord,
    ParityRecord,
    TargetProofRecord,
)
from export.origin import origin_of
from export.parity_report import ParityError
from export.proving import Proof, Prover
from export.reading import read_model
from qadtr.__main__ import main
from training.record_types import payloads
from training.run_folder import RunFolder

TARGETS = ("onnxruntime", "tensorrt", "qcdq", "qonnx")


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run with all its targets; read it only."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("targets") / "run"))
    shutil.rmtree(folder / "export", ignore_errors=True)
    words = ["export", str(folder), "--images", "96", "--target", *TARGETS]
    assert main(words) == 0
    return folder


def test_each_file_has_its_proof_and_its_budget_beside_it(run: Path) -> None:
    written = read_records(run / "records")
    proofs = payloads(written, TARGET_PROOF_KIND, TargetProofRecord)
    proved = {proof["model_sha256"] for proof in proofs}
    assert payloads(written, CERTIFICATE_KIND, CertificateRecord)[0]["format_version"] == 2
    assert payloads(written, PARITY_KIND, ParityRecord)[0]["format_version"] == 2
    for target in TARGETS:
        for bits in (32, 4):
            path = run / "export" / f"{target}-{bits}.onnx"
            sidecar = json.loads(path.with_suffix(".json").read_text())
            assert (sidecar["target"], sidecar["bit_width"]) == (target, bits)
            assert sidecar["sha256"] == sha256_of(path)
            model = read_model(path)
            assert origin_of(model) == RunFolder.open(run).checkpoint_sha256
            assert not model.metadata_props
            if (target, bits) == ("onnxruntime", 4):
                assert sidecar["budget"] == {"max_logit_difference": 0.0, "max_flip_share": 0.0}
                continue
            assert sidecar["sha256"] in proved
            assert sidecar["proof"]["ok"] is True
            for one in sidecar["proof"]["departures"]:
                allowed = one["allowed_difference"]
                assert allowed is None or one["largest_difference"] <= allowed
                assert one["flips"] <= one["budget"]["flips"] * one["images"]
            with_engine = target in ("tensorrt", "qcdq") and bits == 4
            assert (sidecar["budget"] is not None) == with_engine
            if with_engine:
                assert sidecar["budget"]["max_logit_difference"] > 0.0
                assert sidecar["guarantees"][-1] == "quantized operands"
    assert not [path for path in (run / "export").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for name in ("checkpoint.safetensors", "checkpoint.json"):
        shutil.copy(run / name, copy)
    threads = "2" if os.environ.get("OMP_NUM_THREADS") == "1" else "1"
    subprocess.run(
        [sys.executable, "-m", "qadtr", "export", str(copy), "--images", "96", "--bits", "4",
         "--target", *TARGETS],
        check=True, timeout=300, capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": threads},
    )  # fmt: skip
    for target in TARGETS:
        name = f"export/{target}-4.onnx"
        assert sha256_of(copy / name) == sha256_of(run / name)


def test_explain_tells_of_every_target(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(run), "--images", "8", "--bits", "4", "--explain"]
    assert main([*words, "--least-agreement", "0.8", "--target", *TARGETS]) == 0
    parts = capsys.readouterr().out.split(str(run))[1:]
    assert len(parts) == len(TARGETS)
    wanted = {
        "onnxruntime": ("QLinearConv, 4-bit weights", "[convolution]"),
        "tensorrt": ("the whole graph: symmetric int8 [guarantee]", "codes 0…127"),
        "qcdq": ("openvino-cpu against the numpy reference", "checked: onnx.checker, full"),
        "qonnx": ("block0.first: Quant, 4 bits, codes 0…15", "the file after qonnx-cleanup"),
    }
    for part, target in zip(parts, TARGETS, strict=True):
        assert part.startswith(f"/export/{target}-4.onnx")
        for text in wanted[target]:
            assert text in part


def test_a_file_over_its_budget_is_not_put_in_place(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("checkpoint.safetensors", "checkpoint.json"):
        shutil.copy(run / name, copy)
    words = ["export", str(copy), "--images", "96", "--bits", "4", "--target", "tensorrt"]
    assert main([*words, "--least-agreement", "1", "--engine-logits", "0"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("qadtr: tensorrt: ")
    assert "the budget is" in line
    assert not list((copy / "export").iterdir())
    assert main([*words, "cuda"]) == 2
    assert "unknown target cuda; available: onnxruntime" in capsys.readouterr().err
    assert main([*words, "--storage", "low-bit"]) == 2
    assert "unknown storage 'low-bit' for the target tensorrt" in capsys.readouterr().err
    assert main([*words, "--tune", "amx"]) == 2
    assert "unknown tune 'amx' for the target tensorrt; available: any" in capsys.readouterr().err


def test_files_that_hold_are_written_where_others_fail(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("checkpoint.safetensors", "checkpoint.json"):
        shutil.copy(run / name, copy)
    prove = Prover.prove

    def fails_at_4_bits(self: Prover, target: str, path: Path) -> Proof:
        if self.bits == 4:
            raise ParityError(f"{target}: another code")
        return prove(self, target, path)

    monkeypatch.setattr(Prover, "prove", fails_at_4_bits)
    words = ["export", str(copy), "--images", "8", "--target", "onnxruntime", "qcdq", "--bits"]
    assert main([*words, "4", "32"]) == 2
    said = capsys.readouterr()
    written = [copy / "export" / f"{target}-32.onnx" for target in ("onnxruntime", "qcdq")]
    assert [line.split("  ")[0] for line in said.out.splitlines()] == list(map(str, written))
    assert sorted((copy / "export").glob("*.onnx")) == written
    assert said.err.splitlines()[-1] == (
        "qadtr: 2 of 4 files failed: onnxruntime, 4 bits: onnxruntime: another code; "
        "qcdq, 4 bits: qcdq: another code"
    )


def test_int8_storage_serves_runtimes_that_know_no_low_bits(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    words = ["export", str(copy), "--images", "8", "--bits", "4", "--storage", "int8"]
    assert main([*words, "--least-agreement", "0.8"]) == 0
    model = onnx.load(copy / "export" / "onnxruntime-4.onnx")
    # What ONNX Runtime 1.15 reads (docs/export.md).
    assert model.ir_version <= 8
    assert {(one.domain, one.version) for one in model.opset_import} == {
        ("", 13), ("com.microsoft", 1),
    }  # fmt: skip
    assert "Cast" not in {node.op_type for node in model.graph.node}


def test_what_a_file_is_laid_out_for_stands_in_its_sidecar(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    words = ["export", str(copy), "--images", "8", "--bits", "4", "--least-agreement", "0.8"]
    sidecar = copy / "export" / "onnxruntime-4.json"
    for tune, more in (("any", []), ("amx", ["--tune", "amx"])):
        assert main([*words, *more]) == 0
        assert json.loads(sidecar.read_text())["tune"] == tune


def test_parity_proves_the_files_of_a_target_once_more(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    words = ["parity", str(copy), "--images", "16", "--target", "qcdq"]
    assert main([*words, "--least-agreement", "0.8"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("qcdq-4.onnx: within its budget\n  onnxruntime-cpu against")
    assert main([*words, "--html", str(tmp_path / "page.html")]) == 4
    path = copy / "export" / "qcdq-4.onnx"
    model = onnx.load(path)
    bias = next(t for t in model.graph.initializer if t.name == "logits.b")
    moved = onnx.numpy_helper.to_array(bias).copy()
    moved[0] += 100.0
    bias.CopyFrom(onnx.numpy_helper.from_array(moved, bias.name))
    onnx.save(model, path)
    assert main(words) == 2
    assert "OVER ITS BUDGET" in capsys.readouterr().out
    path.unlink()
    assert main(words) == 2
    assert "--bits 4 --target qcdq" in capsys.readouterr().err
