"""Someone's own network and images, by command line, to the verdict of the device's validator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import qadtr
from qadtr.__main__ import main
from tests.qadtr import own_shapes
from training.data import ImageSet

NETWORK = """
import torch
from torch import nn

class Theirs(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.SiLU(),
            nn.Conv2d(12, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Sigmoid())
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = self.body(x)
        return self.head((x * self.gate(x)).mean((2, 3)))
"""
CONFIG = """
name = "own"
seed = 1
[data]
kind = "npz"
augment = "none"
[network]
name = "someones_module:Theirs"
bit_widths = [32, 8, 4]
mean = [0.3, 0.3, 0.3]
std = [0.2, 0.2, 0.2]
[training]
epochs = 4
batch_size = 32
"""
CLASSES = ("north west", "north east", "south west", "south east")


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 400), ("test", 120)):
        labels = np.arange(count) % 4
        images = rng.integers(0, 60, (count, 3, 24, 36)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            top, left = 12 * (label // 2), 18 * (label % 2)
            image[label % 3, top : top + 12, left : left + 18] += 120
        made = qadtr.ImageSet.from_arrays(images, labels, CLASSES, split=split)
        made.write(folder)


@pytest.mark.slow
def test_an_own_network_goes_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someones_module.py").write_text(NETWORK, encoding="utf-8")
    (tmp_path / "own.toml").write_text(CONFIG, encoding="utf-8")
    write_images(tmp_path / "images")
    data = ["--data", str(tmp_path / "images")]
    run = str(tmp_path / "runs" / "own")
    assert main(["train", "own.toml", *data]) == 0
    (tmp_path / "someones_module.py").unlink()
    sys.modules.pop("someones_module")

    assert main(["export", run, *data, "--target", "onnxruntime", "qcdq"]) == 0
    attack = ["--attack", "lavan", "--size", "6", "--steps", "10", "--images", "60"]
    assert main(["patch", run, *attack, *data]) == 0
    assert main(["eval", run, "--patches", f"{run}/patches", *data]) == 0
    assert "someones_module:Theirs" in capsys.readouterr().out
    bundle = tmp_path / "own.qadtr"
    gates = ["--max-asr", "0.9", "--max-drift", "0.1"]
    assert main(["bundle", run, *data, "--bits", "4", *gates, "--out", str(bundle)]) == 0
    assert main(["validator", "--out", "validate.pyz"]) == 0
    done = subprocess.run(
        [sys.executable, "-I", "validate.pyz", str(bundle)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all in integers: 3 convolution, 1 matrix product, 2 pool, 1 gate" in done.stdout


def squares(shape: tuple[int, int, int], classes: int, split: str, count: int) -> ImageSet:
    """Noise, and a square that is brighter where the class is: N×C×H×W, integers N."""
    rng = np.random.default_rng(len(split))
    labels = np.arange(count) % classes
    images = rng.integers(0, 90, (count, *shape)).astype(np.uint8)
    height, width = shape[1:]
    across = int(np.ceil(np.sqrt(classes)))
    for image, label in zip(images, labels, strict=True):
        top, left = height * (label // across) // across, width * (label % across) // across
        image[:, top : top + height // across, left : left + width // across] += 150
    return qadtr.ImageSet.from_arrays(images, labels, split=split)


@pytest.mark.parametrize(
    ("module", "shape", "classes"),
    [
        (own_shapes.Grey, (1, 28, 36), 3),
        pytest.param(own_shapes.Wide, (3, 96, 128), 100, marks=pytest.mark.slow),
    ],
)
def test_images_of_any_shape_go_the_whole_way_from_python(
    module: type[own_shapes.Grey | own_shapes.Wide],
    shape: tuple[int, int, int],
    classes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    images = [squares(shape, classes, split, 400) for split in ("train", "test")]
    mean, std = (0.2,) * shape[0], (0.2,) * shape[0]
    example = torch.zeros(1, *shape)
    network = qadtr.quantize(module(classes), example, bits=(32, 8, 4), mean=mean, std=std)
    run = qadtr.train(
        network,
        images,
        "runs/own",
        epochs=4,
        defense={"name": "qadtr", "sizes_px": [5], "personal_px": 5},
        settings={"training.batch_size": 32, "data.augment": "none"},
        progress=False,
    )
    assert (run.network_name, run.defense) == (module.__name__.lower(), "qadtr")
    (model,) = qadtr.export(run, bits=[4], count=100)
    assert model.certificate is not None
    assert model.certificate.ok
    white = qadtr.make_patches(run, size=5, count=40, settings={"steps": 5})
    black = {"steps": 8, "bit_widths": [4]}
    found = qadtr.make_patches(
        run, "sparse-rs", size=5, count=40, engine="onnxruntime", settings=black
    )
    results = qadtr.evaluate(run, [white, found], latency=False)
    assert [(row.bits, row.patch) for row in results.rows] == [
        ("4", white.name),
        ("4", found.name),
    ]
    qadtr.bundle(run, "own.qadtr", patches=[white, found], max_asr=1.0, max_drift=0.1)
    assert qadtr.validate("own.qadtr").passed
    assert main(["validator", "--out", "validate.pyz"]) == 0
    words = [sys.executable, "-I", "validate.pyz", "own.qadtr"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "shape", "classes", "mean"),
    [("Grey", (1, 28, 36), 3, "[0.2]"), ("Wide", (3, 96, 128), 100, "[0.2, 0.2, 0.2]")],
)
def test_images_of_any_shape_go_the_whole_way(
    network: str,
    shape: tuple[int, int, int],
    classes: int,
    mean: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"shapes_{network}.py").write_bytes(Path(own_shapes.__file__).read_bytes())
    config = CONFIG.replace("someones_module:Theirs", f"shapes_{network}:{network}")
    for line in ("mean = [0.3, 0.3, 0.3]", "std = [0.2, 0.2, 0.2]"):
        config = config.replace(line, f"{line.split()[0]} = {mean}")
    defense = (
        '[defense]\nname = "qadtr"\nsizes_px = [5]\npersonal_px = 5\nplacements = ["random"]\n'
    )
    (tmp_path / "own.toml").write_text(config + defense, encoding="utf-8")
    for split in ("train", "test"):
        squares(shape, classes, split, 400).write(tmp_path / "images")
    data = ["--data", str(tmp_path / "images")]
    run = str(tmp_path / "runs" / "own")
    assert main(["train", "own.toml", *data]) == 0
    assert main(["export", run, *data, "--bits", "4", "--images", "100"]) == 0
    common = ["--size", "5", "--images", "40", *data]
    assert main(["patch", run, "--attack", "lavan", "--steps", "5", *common]) == 0
    sparse = ["--attack", "sparse-rs", "--engine", "onnxruntime", "--bits", "4"]
    assert main(["patch", run, *sparse, "--steps", "8", *common]) == 0
    assert main(["eval", run, "--patches", f"{run}/patches", "--bits", "4", *data]) == 0
    bundle = tmp_path / "own.qadtr"
    gates = ["--max-asr", "1.0", "--max-drift", "0.1"]
    assert main(["bundle", run, *data, "--bits", "4", *gates, "--out", str(bundle)]) == 0
    assert main(["validator", "--out", "validate.pyz"]) == 0
    done = subprocess.run(
        [sys.executable, "-I", "validate.pyz", str(bundle)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
