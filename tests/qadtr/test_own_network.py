"""Someone's own network and images, by command line, to the verdict of the device's validator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qadtr
from qadtr.__main__ import main

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
        made = qadtr.images_from_arrays(images, labels, CLASSES, split=split)
        qadtr.write_arrays(made, folder)


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


def test_the_public_names_are_there_and_documented() -> None:
    names = [name for name in dir(qadtr) if not name.startswith("_")]
    assert len(names) <= 20
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    for name in names:
        found = getattr(qadtr, name)
        assert found.__doc__, name
        assert f"`{name}" in page
    with pytest.raises(AttributeError, match="qadtr has no 'quantise'; it has ImageSet"):
        _ = qadtr.quantise
