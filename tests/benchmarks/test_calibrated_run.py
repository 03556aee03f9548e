"""A calibrated network as a run folder: from drawn weights, and from those of smaller images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.calibrated_run import main
from deploy.core.errors import InputError
from training.checkpoint import persistent_tensors
from training.prediction import predict
from training.run_folder import RunFolder

CLASSES = ("bright", "dark")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes that a mean tells apart, 40 images of each."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, low in zip(CLASSES, (120, 0), strict=True):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(40):
                pixels = rng.integers(low, low + 130, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "data"


def test_a_run_that_the_other_stages_take(data: Path, tmp_path: Path) -> None:
    words = ["--network", "resnet8", "--data", str(data), "--images", "48", "--batch", "16"]
    small, large = tmp_path / "small", tmp_path / "large"
    assert main([*words, "--size", "24", "--bits", "32", "--out", str(small)]) == 0
    start = str(small / "checkpoint.safetensors")
    more = ["--size", "32", "--bits", "32", "4", "--start", start, "--seed", "1"]
    assert main([*words, *more, "--out", str(large)]) == 0
    run = RunFolder.open(large)
    assert (run.defense, run.bit_widths, run.classes) == ("calibrated", (32, 4), CLASSES)
    test = run.images(data, "test")
    network = run.load_network()
    for bits in (32, 4):
        right = predict(network, test.images, bits) == test.labels
        assert right.mean() > 0.9, bits
    # The convolutions are those of the small images' network; what depends on images is not.
    own, given = (persistent_tensors(RunFolder.open(p).load_network()) for p in (large, small))
    assert torch.equal(own["stem.conv.weight"], given["stem.conv.weight"])
    name = "stem.norm.norms.32.running_var"
    assert not torch.equal(own[name], given[name])


def test_a_start_of_another_network_is_refused(data: Path, tmp_path: Path) -> None:
    words = ["--data", str(data), "--size", "24", "--bits", "32", "--images", "16", "--batch", "8"]
    small = tmp_path / "small"
    assert main(["--network", "resnet8", *words, "--out", str(small)]) == 0
    other = ["--network", "resnet20", *words, "--out", str(tmp_path / "other")]
    with pytest.raises(InputError, match="resnet20"):
        main([*other, "--start", str(small / "checkpoint.safetensors")])
