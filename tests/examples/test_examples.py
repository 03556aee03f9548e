"""The examples run as they are, on what they draw themselves; a notebook is its script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

import qadtr
from examples import clipped_resnet8
from examples.notebooks import SCRIPTS, notebook_of
from examples.resnet32 import ResNet32

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SOURCE = ROOT / "results" / "cifar10-resnet8-cpu" / "source"


def run(folder: Path, *words: str | Path) -> str:
    """What a process of Python prints, started in a folder of its own."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_notebook_is_its_script(name: str) -> None:
    script = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    text = (EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8")
    assert text == notebook_of(script), "python examples/notebooks.py writes them anew"
    notebook = json.loads(text)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    assert kinds[0] == "markdown" and kinds.count("code") >= 5
    code = [line for c in notebook["cells"] if c["cell_type"] == "code" for line in c["source"]]
    own = [
        line
        for line in script.splitlines()
        if line and not line.startswith(("# ", "#\n")) and line != "#"
    ]
    assert [line.rstrip("\n") for line in code if line.strip()] == own


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_code_of_a_notebook_goes_to_the_verdict(name: str, tmp_path: Path) -> None:
    notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    (tmp_path / "cells.py").write_text("\n\n".join(cells), encoding="utf-8")
    said = run(tmp_path, "cells.py", "-f", "kernel.json")  # as a kernel is started
    assert said.rstrip().endswith("may ship")
    assert "PASS (exit code 0)" in said
    (results,) = (tmp_path / "runs").glob("*/results.csv")
    assert len(results.read_text().splitlines()) == 3  # headings, 8 bits, 4 bits


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_takes_a_folder_of_images(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 60)):
        for label, colour in enumerate(("red", "green", "blue")):
            folder = tmp_path / "images" / split / colour
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 150, (20, 24, 3)).astype(np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(folder / f"{number}.png")
    short = ["--epochs", "4"] if name == "own_network" else ["--steps", "60"]
    said = run(tmp_path, EXAMPLES / f"{name}.py", "--data", "images", "--size", "24", *short)
    assert "may ship" in said


def fitted(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> ResNet32:
    """Somebody's float network that has learned these images a little, in the example's form."""
    torch.manual_seed(0)
    module = ResNet32()
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for step in range(13):
        some = np.arange(25 * step, 25 * step + 25) % len(images)
        logits = module((torch.from_numpy(images[some]) / 255.0 - mean) / std)
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[some])).backward()
        optimizer.step()
        optimizer.zero_grad()
    return module


def test_the_pretrained_example_is_short() -> None:
    """The words of Python, without the docstring."""
    text = (EXAMPLES / "pretrained_resnet32.py").read_text(encoding="utf-8")
    code = text.split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) < 30


@pytest.mark.slow
def test_the_pretrained_example_runs_on_its_own_words(tmp_path: Path) -> None:
    """With drawn weights and small data, by the script's own text."""
    rng = np.random.default_rng(0)
    for split, count in (("test", 30), ("train", 330)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 100, (count, 3, 32, 32)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[label % 3, :, 3 * label : 3 * label + 5] += 150
        one = qadtr.ImageSet.from_arrays(images, labels, qadtr.load(SOURCE).classes, split=split)
        one.write(tmp_path / "images")
    save_file(fitted(images, labels).state_dict(), tmp_path / "weights.safetensors")
    words = [f"--weights={tmp_path}/weights.safetensors", f"--data={tmp_path}/images"]
    said = run(
        tmp_path,
        EXAMPLES / "pretrained_resnet32.py",
        *words,
        f"--out={tmp_path}/runs",
        f"--source={SOURCE}",
    )
    assert said.count("clean") == 5
    assert (tmp_path / "runs" / "results.csv").is_file()
    models = {path.name for path in (tmp_path / "runs" / "qadtr" / "export").glob("*.onnx")}
    assert models == {f"onnxruntime-{bits}.onnx" for bits in (8, 4, 2)}


@pytest.mark.parametrize(("name", "cap"), [("cap_half", 0.5), ("cap1", 1.0), ("cap2", 2.0)])
def test_no_pooled_feature_of_a_clipped_network_passes_its_cap(name: str, cap: float) -> None:
    """Read through a linear layer of the identity; the same weights without a cap pool more."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32)).astype(np.uint8)
    images = qadtr.ImageSet.from_arrays(pixels, np.arange(64) % 10, [str(i) for i in range(10)])
    greatest = {}
    for build in ("free", name):
        torch.manual_seed(0)
        module = getattr(clipped_resnet8, build)(10)
        torch.nn.init.constant_(module.block2.shortcut_norm.weight, 40.0)
        torch.nn.init.eye_(module.linear.weight)
        torch.nn.init.zeros_(module.linear.bias)
        network = qadtr.quantize(
            module, torch.zeros(1, 3, 32, 32), bits=(32, 8, 4, 2), mean=(0.5,) * 3, std=(0.25,) * 3
        )
        qadtr.calibrate(network, images)
        for bits in (32, 8, 4, 2):
            with network.at(bits), torch.no_grad():
                greatest[build, bits] = float(network(torch.from_numpy(pixels).float()).max())
    for bits in (32, 8, 4, 2):
        assert 0 < greatest[name, bits] <= cap * 1.01 < greatest["free", bits]
