"""The scanned digits of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from deploy.core.errors import InputError
from training.data import load_images
from training.data.digits import _bilinear_weights


def test_three_disjoint_splits_of_all_images() -> None:
    sets = [load_images("digits", None, split) for split in ("train", "holdout", "test")]
    assert sum(len(s) for s in sets) == 1797
    for s in sets:
        assert s.images.shape[1:] == (3, 32, 32)
        assert s.images.dtype == np.uint8
        counts = np.bincount(s.labels, minlength=10)
        assert counts.min() >= 0.9 * counts.max()
    test_share, holdout_share = len(sets[2]) / 1797, len(sets[1]) / 1797
    assert test_share == pytest.approx(0.2, abs=0.003)
    assert holdout_share == pytest.approx(0.08, abs=0.003)
    images = [image.tobytes() for s in sets for image in s.images]
    source = {image.tobytes() for image in load_digits().images}
    assert len(set(images)) == len(source)


def test_the_pixels_are_the_scans() -> None:
    bunch = load_digits()
    train = load_images("digits", None, "test", size=8)
    assert train.images.shape[2:] == (8, 8)
    # At the size of the scans nothing is interpolated: only 0…16 becomes 0…255.
    scans = {np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in bunch.images}
    assert {image[0].tobytes() for image in train.images} <= scans
    large = load_images("digits", None, "test").images
    np.testing.assert_array_equal(large[:, 0], large[:, 1])
    np.testing.assert_array_equal(large[:, 0], large[:, 2])
    assert (large.min(), large.max()) == (0, 255)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_the_weights_are_bilinear(factor: int) -> None:
    weights, unit = _bilinear_weights(factor)
    assert (weights.sum(1) == unit).all()
    assert (weights >= 0).all()
    position = (np.arange(8 * factor) + 0.5) / factor - 0.5
    # A linear ramp is reproduced, but for the repeated edges.
    np.testing.assert_allclose(weights @ np.arange(8) / unit, position.clip(0, 7), rtol=1e-12)


def test_the_digest_is_fixed() -> None:
    # Settings chosen on the hold-out and tables made on the test set mean these very images.
    assert load_images("digits", None, "test").digest.startswith("358327fe")


@pytest.mark.parametrize("size", [0, -8, 7, 30])
def test_impossible_size(size: int) -> None:
    with pytest.raises(InputError, match="multiple of 8"):
        load_images("digits", None, "test", size=size)
