"""`qadtr adopt` on a float and on a Q/DQ network, from the file to the gate on a bare device."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from PIL import Image
from torch import Tensor, nn

from deploy.core.records import read_records
from deploy.device.bundle_reading import Bundle
from qadtr.__main__ import main
from tests.deploy.device.conftest import elsewhere, run_elsewhere
from training.data import load_images

__all__ = ["elsewhere"]  # a fixture

MEAN_STD = ["--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]
INPUT = "image"


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        )
        self.shortcut = nn.Conv2d(inside, outside, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        Block(8, 16), Block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def normalized(images: np.ndarray) -> np.ndarray:
    return np.asarray((images.astype(np.float32) / np.float32(255) - np.float32(0.5)) * 4)


def trained(network: nn.Module) -> nn.Module:
    """On the digits, for a few seconds."""
    torch.manual_seed(1)
    images = load_images("digits", None, "train", size=16)
    x = torch.from_numpy(normalized(images.images))
    y = torch.from_numpy(images.labels)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return network.eval()


class Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        images = load_images("digits", None, "train", size=16).images[:64]
        self.batches: Iterator[dict[str, Any]] = iter([{INPUT: normalized(images)}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


def exported(network: nn.Module, path: Path) -> Path:
    torch.onnx.export(
        network, (torch.zeros(2, 3, 16, 16),), path, input_names=[INPUT], output_names=["scores"],
        dynamic_axes={INPUT: {0: "n"}, "scores": {0: "n"}}, dynamo=False, opset_version=17,
    )  # fmt: skip
    return path


def float_file(folder: Path) -> Path:
    return exported(trained(small()), folder / "small.onnx")


def quantized_file(folder: Path) -> Path:
    source = exported(trained(resnet()), folder / "float.onnx")
    path = folder / "resnet-qdq.onnx"
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(source, path, Calibration(), per_channel=True, **types)
    return path


@pytest.mark.parametrize(
    ("write", "bits", "integer"), [(float_file, 32, False), (quantized_file, 8, True)]
)
@pytest.mark.filterwarnings("ignore")  # of torch's exporter
def test_from_somebody_elses_file_to_the_gate(
    write: Callable[[Path], Path],
    bits: int,
    integer: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    elsewhere: tuple[Path, dict[str, str]],
) -> None:
    model, run = write(tmp_path), tmp_path / "run"
    adopt = ["adopt", str(model), *MEAN_STD, "--kind", "digits", "--out", str(run)]
    strict = main([*adopt, "--require-integer"])
    said = capsys.readouterr()
    assert strict == (0 if integer else 2), said.err
    assert ("NOT INTEGER: 0 of 2 convolutions" in said.err) is not integer
    assert main(adopt) == 0
    said = capsys.readouterr()
    assert f": {model.stem}, {'float' if bits == 32 else '8 bits'}, 10 classes" in said.out
    assert "golden logits of onnxruntime-cpu; tolerance on other machines" in said.out
    assert float(said.out.rpartition("clean accuracy ")[2].partition("%")[0]) > 80

    # A black box: the engine's own patches, somebody's picture, nothing that follows gradients.
    patch = ["patch", str(run), "--size", "4", "--images", "60"]
    assert main([*patch, "--attack", "lavan"]) == 2
    assert "sparse-rs" in capsys.readouterr().err
    assert main([*patch, "--attack", "sparse-rs", "--steps", "20"]) == 0
    picture = tmp_path / "sticker.png"
    noise = np.random.default_rng(3).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).save(picture)
    supplied = ["patch", str(run), "--supplied", str(picture), "--images", "60", "--size", "4"]
    assert main(supplied) == 0
    assert main(["eval", str(run), "--patches", str(run / "patches"), "--no-latency"]) == 0
    (one, other) = [
        record["payload"] for record in read_records(run / "records")
        if record["kind"] == "evaluation"
    ]  # fmt: skip
    for record in (one, other):
        assert record["model"]["network"] == model.stem
        assert record["model"]["bit_width"] == bits
        assert record["model"]["certificate"]["ok"] is integer
        assert record["drift"] is None
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    for command in (["export"], ["checks"], ["eval", "--adaptive", "--images", "20"]):
        assert main([command[0], str(run), *command[1:]]) == 2
        assert "there is no network in torch" in capsys.readouterr().err

    bundle = tmp_path / "theirs.qbundle"
    assert main(["bundle", str(run), "--max-asr", "1", "--out", str(bundle)]) == 0
    with Bundle(bundle) as opened:
        facts, golden = opened.manifest.models["onnxruntime"], opened.manifest.golden
        assert facts.adopted
        assert facts.file == f"models/adopted-{bits}.onnx"
        assert facts.max_logit_difference > 0
        assert facts.certificate is not None
        assert (sum(facts.certificate["in_float"].values()) == 0) is integer
        assert golden["engine"].startswith("onnxruntime-cpu ")

    said = run_elsewhere(["validate.pyz", str(bundle)], elsewhere).stdout  # type: ignore[assignment]
    assert "PASS (exit code 0)" in said, said
    assert ("profile    all in integers" if integer else "profile    not an integer model") in said
    report = json.loads((elsewhere[0] / "report.json").read_text())
    shutil.copy(elsewhere[0] / "report.json", tmp_path / "first.json")
    assert report["clean"]["flips"] == 0
    done = run_elsewhere(["validate.pyz", str(bundle), "--require-integer"], elsewhere)
    assert done.returncode == (0 if integer else 1), done.stdout
    report = json.loads((elsewhere[0] / "report.json").read_text())
    (check,) = (one for one in report["checks"] if one["name"] == "integer")
    assert check["outcome"] == ("pass" if integer else "fail")
    assert ("not an integer model" in report["reason"]) is not integer
    assert main(["compare", str(tmp_path / "first.json"), str(elsewhere[0] / "report.json")]) == 0
