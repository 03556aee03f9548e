"""Scanned digits at 16 px for the tests of the training stage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from training.data import ImageSet, load_images


@pytest.fixture(scope="session")
def small_digits() -> ImageSet:
    return load_images("digits", None, "train", size=16)


@pytest.fixture(scope="session")
def small_holdout() -> ImageSet:
    whole = load_images("digits", None, "holdout", size=16)
    return replace(whole, images=whole.images[:40], labels=whole.labels[:40])
