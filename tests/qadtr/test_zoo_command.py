"""`qadtr zoo`: its figures are those of the records, and its networks go the way to a verdict."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

import qadtr
from deploy.core.bit_widths import FLOAT
from deploy.core.records import read_records
from eval.stages.zoo import zoo_networks
from qadtr.__main__ import main
from training.checkpoint import CHECKPOINT
from training.data import ImageSet
from training.prediction import predict
from training.run_folder import RunFolder

RESULTS = Path(__file__).resolve().parents[2] / "results"
MOST_BYTES = 4_000_000
GROUP = "cifar10-resnet8-cpu"


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["zoo", "--json", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == "qadtr-zoo"
    return {one["name"]: one for one in found["networks"]}


def test_the_figures_are_those_of_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    networks = listed(capsys)
    assert len(networks) >= 7
    assert all(one["checkpoint_bytes"] <= MOST_BYTES for one in networks.values())
    records = read_records(RESULTS / GROUP / "qadtr" / "records")
    (adaptive,) = [
        one["payload"]
        for one in records
        if one["kind"] == "adaptive" and one["payload"]["model"]["bit_widths"] == [8]
    ]
    found = {one["bits"]: one for one in networks[f"{GROUP}/qadtr"]["figures"]}
    assert list(found) == [32, 8, 5, 4, 2]
    eight = found[8]
    assert adaptive["on_engine"]["asr"].items() <= eight["adaptive"].items()
    assert eight["attack_checks"]["tripped"] == ["doubled-steps"]
    at_eight = [
        one["payload"]
        for one in records
        if one["kind"] == "evaluation" and one["payload"]["model"]["bit_width"] == 8
    ]
    own = networks[f"{GROUP}/qadtr"]["checkpoint_sha256"]
    by_whitebox = {
        whitebox: max(
            one["asr"]["value"]
            for one in at_eight
            if (one["patch"]["source"]["checkpoint_sha256"] == own) == whitebox
            and one["patch"]["attack"] != "adaptive"
        )
        for whitebox in (False, True)
    }
    assert eight["whitebox"]["value"] == by_whitebox[True]
    assert eight["transferred"]["value"] >= by_whitebox[False]  # records elsewhere name it too
    assert "made on undefended resnet8" in eight["transferred"]["patch"]
    (five,) = eight["certified"]
    assert five["patch_px"] == 5
    right, bound = five["masked_inference"]["k"], five["asr_at_most"]
    assert (bound["k"], bound["n"]) == (right - five["k"], right)

    assert main(["zoo", f"{GROUP}/qadtr"]) == 0
    said = capsys.readouterr().out
    assert "91.5%† (88.4–93.8)" in said
    assert "lower bound" in said


def test_a_network_is_added_by_its_folder_with_its_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = RESULTS / GROUP / "qadtr"
    run = tmp_path / "mine" / "first"
    run.mkdir(parents=True)
    for path in (source / CHECKPOINT, (source / CHECKPOINT).with_suffix(".json")):
        shutil.copy(path, run)
    assert main(["zoo", "--folder", str(tmp_path)]) == 2  # without records it is in no zoo
    assert "holds no network for a zoo" in capsys.readouterr().err
    # The records may be in another folder: they name the checkpoint.
    shutil.copytree(source / "records", tmp_path / "later" / "records")
    networks = listed(capsys, "--folder", str(tmp_path))
    assert networks["mine/first"]["figures"][0]["attack_checks"]["words"] == "15 passed"
    for path in (tmp_path / "later" / "records").glob("attack-checks-*.json"):
        path.unlink()
    assert main(["zoo", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("not checked") == 5
    for words, code, expected in (
        (["mine/frist"], 2, "did you mean mine/first?"),
        (["--out", "x"], 4, "--out copies one network"),
        (["mine/first", "--out", "x", "--json"], 4, "give one of the two"),
        (["mine/first", "--out", str(run)], 4, "is there already"),
        (["--folder", str(tmp_path / "none")], 2, "there is no folder"),
    ):
        assert main(["zoo", "--folder", str(tmp_path), *words]) == code
        assert expected in capsys.readouterr().err


def test_an_installed_package_says_where_the_zoo_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qadtr.commands.shared.repository", lambda: None)
    assert main(["zoo"]) == 2
    assert "clone the repository and give --folder CLONE/results" in capsys.readouterr().err


def images_of(run: RunFolder, split: str, count: int) -> ImageSet:
    """Parts of the photographs that scikit-learn brings, labelled by the narrowest bit-width."""
    rng = np.random.default_rng(4)
    parts = []
    for index in range(count):
        photograph = np.asarray(load_sample_images().images[index % 2])
        side = rng.integers(32, 300)
        top, left = (rng.integers(0, length - side) for length in photograph.shape[:2])
        rows, columns = (np.linspace(0, side - 1, n).astype(int) for n in run.spec.image_size)
        parts.append(photograph[top + rows][:, left + columns])
    images = np.stack(parts).transpose(0, 3, 1, 2).copy()
    labels = predict(run.load_network(), images, min(run.bit_widths))
    return ImageSet.from_arrays(images, labels, run.classes, split=split)


def validated(name: str, bits: int, folder: Path) -> dict[str, Any]:
    """The report of the validator in a bundle of a network of the zoo."""
    assert main(["zoo", name, "--out", str(folder / "run")]) == 0
    run = qadtr.load(folder / "run")
    sets = [images_of(run, split, count) for split, count in (("holdout", 16), ("test", 24))]
    (model,) = qadtr.export(run, sets, bits=[bits])
    assert model.certificate is not None and model.certificate.ok
    patches = qadtr.make_patches(
        run, "lavan", sets, size=5, settings={"steps": 1, "bit_widths": [bits]}
    )
    out = folder / "model.qbundle"
    # Labels by the network, and a patch of one step: the gate's verdict is not the question here.
    qadtr.bundle(
        run, out, bits=bits, patches=patches, images=sets, max_asr=1.0, max_drift=1.0, min_clean=0.0
    )
    done = subprocess.run(
        [sys.executable, out.name, "--json", "report.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 3), done.stdout + done.stderr
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert report["golden"]["largest_difference"] == 0.0
    return report


def test_a_network_of_the_zoo_is_bundled_and_validated(tmp_path: Path) -> None:
    report = validated(f"{GROUP}/qadtr", 4, tmp_path)
    # The records went along: the device is told what the lab found of the attacks.
    assert report["attack_checks"]["tripped"] == ["doubled-steps"]


@pytest.mark.slow
def test_every_network_of_the_zoo_is_bundled_and_validated(tmp_path: Path) -> None:
    networks = zoo_networks(RESULTS)
    # Those that are float alone are there to begin trainings with.
    quantized = [one for one in networks if one.run.bit_widths != (FLOAT,)]
    for network, bits in zip(quantized, itertools.cycle((8, 4, 2)), strict=False):
        validated(network.name, bits, tmp_path / network.name.replace("/", "-"))
