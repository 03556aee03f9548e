"""Networks that somebody else wrote, unmodified: taken whole, or refused in words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from benchmarks.public_networks import CIFAR as SMALL_ONES
from benchmarks.public_networks import KIND, NAMES, RECORDS, SIZES, Amounts, main, measured, sound
from deploy.core.records import records_so_far
from training.data import ImageSet

FEW = Amounts(calibration=16, agreement=8, parity=2, batch=8)
REFUSED = {"espnetv2_w2": "PReLU: it has a slope for each of 32 channels"}
"""And why."""


def crops(size: int, count: int, split: str) -> ImageSet:
    """Parts of the two photographs that scikit-learn brings; the class is the photograph and the
    fifth of its width."""
    rng = np.random.default_rng(len(split))
    images, labels = [], []
    for index in range(count):
        photograph = np.asarray(load_sample_images().images[index % 2])
        top = rng.integers(0, photograph.shape[0] - size)
        left = rng.integers(0, photograph.shape[1] - size)
        images.append(photograph[top : top + size, left : left + size])
        labels.append(index % 2 * 5 + left * 5 // (photograph.shape[1] - size))
    made = np.stack(images).transpose(0, 3, 1, 2).copy()
    return ImageSet.from_arrays(made, np.array(labels), [*"abcdefghij"], split=split)


@pytest.mark.public_networks
@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_others_is_taken_whole(name: str) -> None:
    size = 32 if name in SMALL_ONES else SIZES.get(name, 224)
    payloads = measured(name, crops(size, 16, "train"), crops(size, 8, "test"), FEW)
    if name in REFUSED:
        assert list(payloads) == [0]
        assert REFUSED[name] in payloads[0]["refused"]
        return
    assert list(payloads) == [8, 4]
    for payload in payloads.values():
        assert sound(payload), json.dumps(payload)
        assert payload["code_flips"] == 0


def test_at_most_two_networks_are_refused() -> None:
    assert len(NAMES) == 28
    assert len(REFUSED) <= 2


def test_the_page_is_that_of_the_records() -> None:
    payloads = [record["payload"] for record in records_so_far(RECORDS, KIND)]
    assert {one["network"] for one in payloads} == set(NAMES)
    assert {one["network"] for one in payloads if not sound(one)} == set(REFUSED)
    assert main(["--page", "--check"]) == 0
