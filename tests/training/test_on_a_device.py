"""A training on the CPU, and on a GPU (`make gpu`): it learns, and its network is the CPU's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.training_step import Row, started
from training.prediction import logits

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
STEPS = 30


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("autocast", ["off", "bf16"])
def test_a_network_learns_its_two_batches_and_gives_the_same_logits_on_the_cpu(
    autocast: str, device: str
) -> None:
    run = started(
        Row(defense={"name": "qat"}, autocast=autocast), "resnet8", 16, size=16, device=device
    )
    losses = [run.one_step().loss for _ in range(STEPS)]
    assert all(map(math.isfinite, losses))
    # Ten labels drawn at random: ln 10 is guessing.
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    images = np.random.default_rng(2).integers(0, 256, (32, 3, 16, 16), dtype=np.uint8)
    network = run.network.for_evaluation()
    there = {bits: logits(network, images, bits) for bits in (32, 8, 4)}
    here = network.to("cpu")
    for bits, values in there.items():
        again = logits(here, images, bits)
        # Sums in another order move a code by one here and there.
        assert np.mean(values.argmax(axis=1) != again.argmax(axis=1)) <= 0.1, bits
        assert np.median(np.abs(values - again)) < 0.05 * np.abs(again).max(), bits
