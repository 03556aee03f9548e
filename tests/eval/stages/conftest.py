"""A run folder without a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eval.attacks.predictions import predict
from training.data import ImageSet
from training.network_spec import NetworkSpec
from training.quantize.build import build_network
from training.run_folder import RunFolder

IMAGES = 6


def random_run(path: Path, digits: ImageSet, seed: int) -> RunFolder:
    """A small network with random weights, whose own answers are the labels of its six images."""
    spec = NetworkSpec(name="resnet8", classes=10, input_size=32, bit_widths=(32, 4))
    network = build_network(spec, torch.Generator().manual_seed(seed))
    images = digits.images[:IMAGES]
    for bits in spec.bit_widths:
        with network.at(bits):
            network(torch.from_numpy(images).float())
    network.for_evaluation()
    labels, classes = predict(network, images, 4), [str(number) for number in range(10)]
    sets = [ImageSet.from_arrays(images, labels, classes, split=s) for s in ("train", "test")]
    return RunFolder.from_network(network, path, sets)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, held_out_digits: ImageSet) -> RunFolder:
    return random_run(tmp_path_factory.mktemp("runs") / "run", held_out_digits, seed=0)
