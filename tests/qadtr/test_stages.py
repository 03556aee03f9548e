"""export → patch → eval → report → parity → inspect by the command, and what each refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from deploy.core.double_masking import certified, covering_masks, predict_masked
from deploy.core.patch_set import read_patch_set
from deploy.core.records import read_records
from deploy.engine import open_engine
from eval.measure.certification_record import certifications_from_records
from eval.report.certification import certification_section
from qadtr.__main__ import main
from training.data.subset import chosen_indices
from training.run_folder import RunFolder


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "run"))


def refusal(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 2) -> str:
    capsys.readouterr()
    assert main(words) == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("qadtr: ")
    assert "unexpected" not in line
    return line


def test_the_whole_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patch = ["patch", str(run), "--steps", "3", "--images", "24", "--seed", "5"]
    assert main([*patch, "--attack", "lavan", "--size", "6"]) == 0
    assert main([*patch, "--attack", "gap", "--size", "8", "--made-from", "32"]) == 0
    files = sorted((run / "patches").glob("*.npz"))
    assert [path.name.split("-")[0] for path in files] == ["gap", "lavan"]
    sidecar = json.loads(files[1].with_suffix(".json").read_text())
    assert sidecar["provenance"]["tried_on"]["split"] == "test"
    assert sidecar["provenance"]["source"]["network"] == "resnet8"

    words = ["eval", str(run), "--patches", str(run / "patches"), "--no-latency"]
    assert main(words) == 0
    records = read_records(run / "records", "evaluation")
    assert len(records) == 4  # two bit-widths, two patches
    for record in records:
        payload = record["payload"]
        assert payload["asr"]["n"] > 0
        assert payload["asr"]["low"] <= payload["asr"]["value"] <= payload["asr"]["high"]
        assert payload["drift"] is not None
        assert payload["common_set_of"] == ["float", "4 bits"]
        certified = payload["model"]["certificate"]
        assert (certified is None) == (payload["model"]["bit_width"] == 32)
        assert certified is None or certified["ok"] is True

    # Nothing is measured twice.
    before = sorted(path.name for path in (run / "records").iterdir())
    assert main(words) == 0
    assert sorted(path.name for path in (run / "records").iterdir()) == before

    capsys.readouterr()
    assert main(["report", str(run), "--table"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(run / "report.html")
    assert "LaVAN" in printed
    page = (run / "report.html").read_text()
    assert "<script" not in page
    assert "http-equiv" in page


def test_supplied_patches_are_placed_and_evaluated_in_the_engine(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = np.random.default_rng(0)
    file = tmp_path / "brought.npz"
    np.savez(file, patches=drawn.random((2, 3, 10, 10)), targets=np.array([3, 5]))
    words = ["patch", str(run), "--supplied", str(file), "--images", "40"]
    turned = ["--set", "rotation_degrees=45", "--set", "scale_range=[0.5, 1.0]"]
    assert main([*words, *turned, "--set", "translation=0.2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    patches = str(run / "patches")
    words = ["eval", str(run), "--patches", patches, "--no-latency", "--bits", "4"]
    assert main(words) == 0
    first, second = (r["payload"] for r in read_records(run / "records", "evaluation"))
    assert {first["patch"]["target"], second["patch"]["target"]} == {3, 5}
    for payload in (first, second):
        assert payload["patch"]["attack"] is None
        assert payload["patch"]["kind"] == "universal"
        assert payload["patch"]["placement"].startswith("within 20% of the centre, turned")
        assert 25 <= payload["patch"]["area_px"] <= 100
        assert payload["asr"]["n"] > 0
    assert "supplied, source unknown" in capsys.readouterr().out
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert "Patch brought-0 as it lies on image" in (tmp_path / "report.html").read_text()
    words = ["patch", str(run), "--supplied", str(file)]
    assert "--steps belong" in refusal([*words, "--steps", "3"], capsys, code=4)


def test_gradient_free_patches_on_the_engine(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patch = ["patch", str(run), "--steps", "4", "--images", "12", "--size", "9"]
    words = [*patch, "--attack", "sparse-rs", "--engine", "onnxruntime", "--bits", "4"]
    assert main(words) == 0
    assert "81 px (7.9% of the image)" in capsys.readouterr().out
    sidecars = [json.loads(path.read_text()) for path in (run / "patches").glob("*.json")]
    assert {sidecar["provenance"]["source"]["engine"] for sidecar in sidecars} == {"onnxruntime"}
    words = [*patch, "--attack", "lavan", "--engine", "onnxruntime", "--bits", "4"]
    assert "an engine has none" in refusal(words, capsys)
    assert "one --bits" in refusal([*words, "32"], capsys)


def test_pixel_attacks_continue_and_are_not_made_twice(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pixel", str(run), "--attack", "pgd", "--steps", "2", "--images", "16"]
    words += ["--epsilon", "16", "--bits", "32", "4", "--engine", "onnxruntime"]
    assert main([*words, "--batch-size", "6"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 6
    records = read_records(run / "records", "pixel-attack")
    engines = {
        (r["payload"]["model"]["bit_width"], r["payload"]["model"]["engine"]) for r in records
    }
    assert engines == {(b, e) for b in (32, 4) for e in ("torch", "onnxruntime")}
    for record in records:
        payload = record["payload"]
        assert payload["attacked"] == payload["robust_accuracy"]["n"] == 16
        assert payload["asr"]["low"] <= payload["asr"]["value"] <= payload["asr"]["high"]
        assert 1 <= payload["largest_change"] <= 16
    assert not list(run.glob(".pixel-*"))
    assert main([*words, "--batch-size", "6"]) == 0
    assert capsys.readouterr().out == printed
    assert len(read_records(run / "records", "pixel-attack")) == 4
    assert "attack must be one of" in refusal(["pixel", str(run), "--attack", "nuke"], capsys)


def test_certificates_are_the_engines_and_not_made_twice(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["certify", str(run), "--bits", "4", "--images", "24", "--patch", "2", "3"]
    words += ["--masks-per-axis", "2"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert main(words) == 0
    assert capsys.readouterr().out == printed
    found = certifications_from_records(read_records(run / "records"))
    small, large = sorted(found, key=lambda one: one["patch_px"])
    assert [one["patch_px"] for one in (small, large)] == [2, 3]
    assert small["model"]["engine"] == "onnxruntime-cpu" and small["certified"]["n"] == 24
    opened = RunFolder.open(run)
    images = opened.images(None, "test")
    rows = chosen_indices(len(images), 24)
    for record in (small, large):
        masks = covering_masks(images.images.shape[2:], record["patch_px"], per_axis=2)
        with open_engine("onnxruntime", opened.model_file(4, "onnxruntime")) as engine:
            holds = certified(engine.predict, images.images[rows], images.labels[rows], masks)
        assert record["certified"]["k"] == int(holds.sum()) <= record["masked"]["k"]
        assert record["mean_passes"] >= record["masks"] == len(masks)
    section = certification_section(read_records(run / "records"))
    assert section.count("<tr") == 3 and "digits" in section
    assert "99 px does not fit" in refusal(["certify", str(run), "--patch", "99"], capsys)


def test_patches_are_tried_against_masked_inference(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = ["patch", str(run), "--steps", "3", "--attack", "lavan", "--images", "30"]
    assert main([*patch, "--size", "3", "--set", "mask_px=5"]) == 0
    assert main([*patch, "--size", "2"]) == 0
    words = ["certify", str(run), "--bits", "4", "--images", "24", "--patch", "2", "3"]
    words += ["--masks-per-axis", "2"]
    assert main([*words, "--patches", str(run / "patches")]) == 0
    assert "ASR tried" in capsys.readouterr().out
    found = certifications_from_records(read_records(run / "records"))
    small, large = sorted(found, key=lambda one: one["patch_px"])
    # What is larger than a certificate's patch says nothing about it.
    assert [one["patch"]["size_px"] for one in small["attacks"]] == [[2, 2]]
    assert sorted(one["patch"]["size_px"] for one in large["attacks"]) == [[2, 2], [3, 3]]
    assert {one["patch"]["settings"]["mask_px"] for one in large["attacks"]} == {0, 5}

    opened = RunFolder.open(run)
    images = opened.images(None, "test")
    rows = chosen_indices(len(images), 24)
    masks = covering_masks(images.images.shape[2:], 3, per_axis=2)
    for attack in large["attacks"]:
        (patch_set,) = (
            one
            for one in map(read_patch_set, (run / "patches").glob("*.npz"))
            if list(one.size_px) == attack["patch"]["size_px"]
        )
        assert set(rows) <= set(patch_set.image_indices.tolist())
        pasted = patch_set.paste_on(images.images[patch_set.image_indices])
        of = np.isin(patch_set.image_indices, rows)
        with open_engine("onnxruntime", opened.model_file(4, "onnxruntime")) as engine:
            clean = predict_masked(engine.predict, images.images[rows], masks).classes
            patched = predict_masked(engine.predict, pasted[of], masks).classes
        labels = images.labels[rows]
        won = (clean == labels) & (patched != labels)
        assert (attack["asr"]["k"], attack["asr"]["n"]) == (won.sum(), (clean == labels).sum())

    # Made again with other patches alone.
    assert main([*words, "--patches", str(run / "patches")]) == 0
    assert len(certifications_from_records(read_records(run / "records"))) == 2
    said = refusal([*words[:-4], "2", "--patches", str(run / "patches")], capsys)
    assert "has a side of 3 px" in said and said.endswith("give --patch 3")


def test_parity_and_inspect(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(run), "--split", "test", "--images", "16"]) == 0
    assert "parity: 0 of" in capsys.readouterr().out
    assert main(["inspect", str(run / "export" / "onnxruntime-4.onnx")]) == 0
    assert "QLinearConv" in capsys.readouterr().out
    assert main(["inspect", "--json", str(run / "export" / "onnxruntime-4.onnx")]) == 0
    printed = json.loads(capsys.readouterr().out)
    stored = json.loads((run / "export" / "onnxruntime-4.certificate.json").read_text())
    assert printed["ok"] is stored["ok"] is True
    assert printed["model_sha256"] == stored["model_sha256"]
    assert printed["counts"] == stored["counts"]
    # The float baseline is not an integer graph, and says so.
    assert main(["inspect", str(run / "export" / "onnxruntime-32.onnx")]) == 2
    assert "NOT INTEGER" in capsys.readouterr().out


def test_the_same_checkpoint_gives_the_same_bytes(run: Path) -> None:
    file = run / "export" / "onnxruntime-4.onnx"
    before = file.read_bytes()
    assert main(["export", str(run), "--bits", "4", "--images", "8"]) == 0
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["export", "RUN", "--bits", "3"], 2, "has no bit-width 3"),
        (["export", "missing"], 2, "there is no run folder missing"),
        (["export", "RUN", "--storage", "int7"], 2, "unknown storage"),
        (["export", "RUN", "--tune", "avx"], 2, "unknown tune 'avx'"),
        (["patch", "RUN", "--attack", "magic"], 2, "gap, lavan"),
        (["patch", "RUN", "--attack", "lavan", "--size", "40"], 2, "does not fit"),
        (["patch", "RUN", "--attack", "lavan", "--bits", "5"], 2, "it has 32, 4"),
        (["patch", "RUN", "--attack", "lavan", "--images", "9999"], 2, "expected 1 to"),
        (["patch", "RUN", "--attack", "lavan", "--set", "stepz=3"], 2, "unknown key 'stepz'"),
        (["patch", "RUN", "--attack", "gap", "--target", "10"], 2, "the network has 10"),
        (["eval", "RUN", "--patches", "missing.npz"], 2, "file or folder missing.npz"),
        (["eval", "RUN", "--patches", "RUN/export"], 3, "there is no patch file"),
        (["parity", "RUN", "--bits", "8"], 2, "qadtr export"),
        (["report", "RUN"], 3, "qadtr patch"),
        (["report", "missing"], 2, "missing is not a folder"),
        (["inspect", "RUN/checkpoint.json"], 2, "not an ONNX file"),
        (["inspect", "missing.onnx"], 2, "missing.onnx"),
        (["inspect", "missing.onnx", "--shape", "images"], 4, "--shape expects"),
    ],
)
def test_refusals(
    words: list[str],
    code: int,
    said: str,
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said in refusal([word.replace("RUN", str(run)) for word in words], capsys, code=code)


def test_an_engine_that_is_not_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["patch", str(run), "--attack", "lavan", "--steps", "1", "--images", "4"]) == 0
    words = ["eval", str(run), "--patches", str(run / "patches"), "--engine", "abacus"]
    refused = refusal(words, capsys)
    assert "unknown engine 'abacus'; available: " in refused and "onnxruntime" in refused


def test_a_model_that_is_not_exported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["patch", str(run), "--attack", "lavan", "--steps", "1", "--images", "4"]) == 0
    (run / "export" / "onnxruntime-4.onnx").unlink()
    words = ["eval", str(run), "--patches", str(run / "patches"), "--bits", "4"]
    line = refusal(words, capsys)
    assert "exported: 32" in line
    assert f"qadtr export {run} --bits 4" in line


def test_patches_for_other_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["patch", str(run), "--attack", "lavan", "--steps", "1", "--images", "4"]) == 0
    (sidecar,) = (run / "patches").glob("*.json")
    content = json.loads(sidecar.read_text())
    content["provenance"]["tried_on"]["digest"] = "0" * 64
    sidecar.write_text(json.dumps(content))
    words = ["eval", str(run), "--patches", str(run / "patches")]
    assert "made for other images" in refusal(words, capsys)


@pytest.mark.parametrize("damage", ["weights", "sidecar", "nan", "network"])
def test_a_damaged_checkpoint(damage: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.numpy import load_file, save_file

    from deploy.core.files import sha256_of

    weights, sidecar = run / "checkpoint.safetensors", run / "checkpoint.json"
    content = json.loads(sidecar.read_text())
    said = {
        "weights": "SHA-256 differs",
        "sidecar": "is not a sidecar",
        "nan": "NaN or infinite",
        "network": "belongs to another network than resnet20",
    }[damage]
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "sidecar":
        content["format"] = "something else"
    elif damage == "nan":
        tensors = load_file(weights)
        name = next(name for name, value in tensors.items() if value.dtype == np.float32)
        tensors[name] = np.full_like(tensors[name], np.nan)
        save_file(tensors, weights)
        content["sha256"] = sha256_of(weights)
    else:
        content["network"]["name"] = "resnet20"
    sidecar.write_text(json.dumps(content))
    assert said in refusal(["export", str(run), "--images", "8"], capsys)


def test_a_planted_fault_in_a_model_file_is_found_by_parity(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every bias of one layer moved: a sound file, but another network than was exported."""
    import onnx
    from onnx import numpy_helper

    file = run / "export" / "onnxruntime-4.onnx"
    model = onnx.load(file)
    stored = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT32)
    bias = numpy_helper.to_array(stored).copy()
    bias += 20_000
    stored.CopyFrom(numpy_helper.from_array(bias, stored.name))
    onnx.save(model, file)
    assert main(["parity", str(run), "--images", "64"]) == 2
    assert "same class as fake quantization" in capsys.readouterr().out


def test_explain_says_which_rule_made_what_of_each_layer(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--bits", "4", "--images", "8", "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    stem = next(line for line in lines if line.strip().startswith("stem:"))
    assert "QLinearConv, 8-bit weights" in stem
    assert stem.endswith("[convolution]")
    rules = {line.rpartition("[")[2] for line in lines if line.endswith("]")}
    assert {"image codes]", "requantize]", "residual add]", "linear]"} <= rules
