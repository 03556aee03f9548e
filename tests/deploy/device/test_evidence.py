"""What of a suite counts."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.core.errors import NothingToEvaluate
from deploy.device.evidence import (
    VISIBLE_LEVELS,
    Counted,
    changed_pixels,
    classes_check,
    distinct_images,
    least_changed_pixels,
)
from deploy.device.gate import Outcome, share_at_least, share_at_most
from deploy.device.thresholds import CLEAN_MARGIN, default_min_clean


def noise(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def test_images_that_look_alike_count_once_in_the_place_of_the_first() -> None:
    images = noise(5)
    rows = np.array([3, 0, 3, 1, 0, 3, 2])
    found = distinct_images(images[rows])
    assert found.tolist() == [True, True, False, True, False, False, True]
    nearly = images[rows].astype(np.int64) + np.random.default_rng(2).integers(
        -9, 10, (7, 3, 32, 32)
    )
    nearly = np.clip(nearly, 0, 255).astype(np.uint8)
    nearly[2, :, 5, 7] = 255 - nearly[2, :, 5, 7]  # one pixel, far off
    assert distinct_images(nearly).tolist() == found.tolist()


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (3, 3), (5, 4), (33, 31)])
def test_images_of_any_size(shape: tuple[int, int]) -> None:
    images = np.random.default_rng(3).integers(0, 256, (6, 3, *shape), dtype=np.uint8)
    assert distinct_images(images).all()
    assert distinct_images(np.concatenate([images, images])).sum() == 6


def test_pixels_that_a_patch_visibly_changes() -> None:
    own = np.full((4, 3, 6, 6), 100, np.uint8)
    patched = own.copy()
    patched[1, 0, :2, :2] += VISIBLE_LEVELS
    patched[2, :, 3:, 3:] -= VISIBLE_LEVELS - 1
    patched[3] = 255
    assert changed_pixels(own, patched).tolist() == [0, 4, 0, 36]


@pytest.mark.parametrize(
    ("area", "height", "width", "least"),
    [
        (1, 8, 8, 1),  # one of 64 pixels is more than 0.2%
        (1, 32, 32, 3),
        (9, 32, 32, 3),
        (64, 32, 32, 7),  # the patch's own pixels: an image's own but for six do not count
        (1024, 32, 32, 103),
        (100, 224, 224, 101),
        (2500, 224, 224, 250),
    ],
)
def test_pixels_that_a_patch_must_change(area: int, height: int, width: int, least: int) -> None:
    assert least_changed_pixels(np.array([area]), height, width).tolist() == [least]


def counted(**changes: float | str | None) -> Counted:
    facts = {"k": 1, "n": 60, "images": 100, "untried": 0, "repeated": 0, "unchanged": 0}
    return Counted(**{**facts, "moved": 1, "target": None, "needed": 0.5, **changes})  # type: ignore[arg-type]


def test_a_pass_on_too_few_of_the_images_is_undecided_and_a_fail_stays() -> None:
    passed = share_at_most("max_asr of p", 0.3, 1, 60)
    assert counted().held(passed) == passed
    few = counted(n=49, unchanged=51).held(passed)
    assert few.outcome is Outcome.UNDECIDED
    assert "49 of 100 images count, expected 50% or more" in few.reason
    assert "51 unchanged" in few.reason
    failed = share_at_most("max_asr of p", 0.3, 40, 49)
    assert counted(n=49).held(failed).outcome is Outcome.FAIL
    for_few = counted(n=48, untried=52).held(passed)
    assert for_few.outcome is Outcome.UNDECIDED
    assert "of 100 images, the patch is not for 52, 0 look like" in for_few.reason
    assert "the patch is not for 40" in counted(untried=40).held(passed).reason
    with pytest.raises(NothingToEvaluate, match="none of 100 images counts"):
        counted(n=0).require_any("p")


def test_a_target_that_hides_what_the_patch_does_is_undecided() -> None:
    passed = share_at_most("max_asr of p", 0.3, 1, 60)
    assert counted(target="cat", moved=18).held(passed) == passed
    hidden = counted(target="cat", moved=19).held(passed)
    assert hidden.outcome is Outcome.UNDECIDED
    assert "changes the class of 19 of 60 to classes other than its target 'cat'" in hidden.reason
    assert counted(target=None, moved=19).held(passed) == passed


NAMES = tuple("abcdefghij")


@pytest.mark.parametrize(
    ("predictions", "labels", "passes"),
    [
        (np.arange(1000) % 10, np.arange(1000) % 10, True),
        (
            np.arange(1000) % 7,
            np.arange(1000) % 10,
            True,
        ),  # poor, not collapsed
        (np.where(np.arange(1000) % 20, 3, np.arange(1000) % 10), np.arange(1000) % 10, False),
        (np.full(1000, 3), np.arange(1000) % 10, False),
        (np.full(1000, 3), np.full(1000, 3), False),  # one class: nothing to tell apart
        # nearly one class, and a network that has each of them right
        (np.where(np.arange(100) < 91, 3, 0), np.where(np.arange(100) < 91, 3, 0), False),
        (np.where(np.arange(100) < 90, 3, 0), np.where(np.arange(100) < 90, 3, 0), True),
        (np.arange(100) % 10 == 0, np.arange(100) % 2, False),  # two classes, nine in ten are one
        (np.arange(100) % 4 == 0, np.arange(100) % 2, True),
    ],
)
def test_a_network_that_says_nearly_one_class(
    predictions: np.ndarray, labels: np.ndarray, passes: bool
) -> None:
    check = classes_check(predictions.astype(np.int64), labels.astype(np.int64), NAMES)
    assert (check.outcome is Outcome.PASS) is passes
    assert "classes predicted" in check.reason and "most often" in check.reason


def test_the_default_of_min_clean_lets_the_labs_own_figures_pass() -> None:
    labels = np.zeros(1000, np.int64)
    lab = (np.arange(1000) >= 820).astype(np.int64)
    assert default_min_clean(lab, labels) == pytest.approx(0.795 - CLEAN_MARGIN, abs=0.001)
    assert default_min_clean(labels + 1, labels) == 0.0
    for n in (20, 100, 1000):
        for k in {n, n - n // 10, n - n // 4}:
            least = default_min_clean((np.arange(n) >= k).astype(np.int64), np.zeros(n, np.int64))
            assert share_at_least("min_clean", least, k, n).outcome is Outcome.PASS
