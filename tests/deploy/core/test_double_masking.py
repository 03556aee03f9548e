"""Double masking: the masks cover, certificates survive brute force, and they say something."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.core.double_masking import (
    GREY,
    Predict,
    attack_masked,
    certified,
    certify,
    covering_masks,
    predict_masked,
)
from deploy.core.errors import InputError, NothingToEvaluate, UsageError


def brightness(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Three classes: dark, grey, bright."""
    mean = images.astype(np.int64).mean(axis=(1, 2, 3))
    return np.digitize(mean, [100.0, 156.0]).astype(np.int64)


def half(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Two classes: which half of the image has more bright pixels; none wins a draw."""
    bright = (images[:, 0] > 200).astype(np.int64)
    left, right = bright[:, :, :2].sum(axis=(1, 2)), bright[:, :, 2:].sum(axis=(1, 2))
    return (right > left).astype(np.int64)


def linear(seed: int) -> Predict:
    weights = np.random.default_rng(seed).normal(size=(3, 16))

    def predict(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        classes: NDArray[np.int64] = (
            (images[:, 0].reshape(len(images), -1) - 127.5) @ weights.T
        ).argmax(axis=1)
        return classes

    return predict


def small_images(seed: int, count: int = 40) -> NDArray[np.uint8]:
    """4×4 images whose pixels are one colour with a few others, so that some can be certified."""
    rng = np.random.default_rng(seed)
    base = rng.choice([0, 128, 255], size=(count, 1, 1, 1))
    other = rng.choice([0, 255], size=(count, 1, 4, 4))
    kept = rng.random((count, 1, 4, 4)) < 0.8
    return np.where(kept, base, other).astype(np.uint8).repeat(3, axis=1)


@pytest.mark.parametrize("per_axis", [2, 3, 6, 40])
@pytest.mark.parametrize("size", [(8, 8), (9, 13), (32, 32)])
@pytest.mark.parametrize("patch", [1, 5, 8])
def test_every_patch_lies_in_a_mask_and_every_mask_in_the_image(
    per_axis: int, size: tuple[int, int], patch: int
) -> None:
    masks = covering_masks(size, patch, per_axis=per_axis)
    assert len(masks) <= per_axis**2
    tops, lefts, bottoms, rights = masks.boxes.T
    assert tops.min() >= 0 and lefts.min() >= 0
    assert bottoms.max() <= size[0] and rights.max() <= size[1]
    places = itertools.product(range(size[0] - patch + 1), range(size[1] - patch + 1))
    for top, left in places:
        assert (
            (tops <= top) & (lefts <= left) & (bottoms >= top + patch) & (rights >= left + patch)
        ).any()


@pytest.mark.parametrize(
    "model", [brightness, half, linear(1), linear(2)], ids=["brightness", "half", "linear", "more"]
)
def test_no_patch_changes_a_certified_image(model: Predict) -> None:
    images = small_images(7)
    masks = covering_masks((4, 4), 2, per_axis=2)
    # The label is what the model says: then nothing but the patch can make it wrong.
    labels = model(images)
    holds = certified(model, images, labels, masks)
    assert holds.any() and not holds.all()
    broken = np.zeros(len(images), dtype=np.bool_)
    for top, left in itertools.product(range(3), repeat=2):
        for values in itertools.product((0, 128, 255), repeat=4):
            patched = images.copy()
            patched[:, :, top : top + 2, left : left + 2] = np.array(values).reshape(2, 2)
            broken |= predict_masked(model, patched, masks).classes != labels
    assert not broken[holds].any()
    assert broken.any(), "a brute force that breaks nothing proves nothing"


def test_masked_inference_takes_a_patch_away() -> None:
    images = np.full((2, 3, 12, 12), 250, dtype=np.uint8)
    masks = covering_masks((12, 12), 2, per_axis=5)

    def sees_a_black_pixel(given: NDArray[np.uint8]) -> NDArray[np.int64]:
        return (given == 0).any(axis=(1, 2, 3)).astype(np.int64)

    images[1, :, 5:7, 6:8] = 0
    assert sees_a_black_pixel(images).tolist() == [0, 1]
    found = predict_masked(sees_a_black_pixel, images, masks)
    assert found.classes.tolist() == [0, 0]
    assert found.passes[0] == len(masks)
    assert found.passes[1] % len(masks) == 0 and found.passes[1] > len(masks)


def test_a_certificate_asks_every_pair_under_grey() -> None:
    asked: list[NDArray[np.uint8]] = []

    def constant(given: NDArray[np.uint8]) -> NDArray[np.int64]:
        asked.append(given)
        return np.zeros(len(given), dtype=np.int64)

    images = np.zeros((1, 3, 6, 6), dtype=np.uint8)
    masks = covering_masks((6, 6), 2, per_axis=2)
    count = len(masks)
    told: list[tuple[int, int]] = []
    holds = certified(
        constant,
        images,
        np.zeros(1, np.int64),
        masks,
        progress=lambda done, total: told.append((done, total)),
    )
    assert holds.all()
    shown = {one[0, 0].tobytes() for one in asked}
    pairs = {masks.over(images, i, j)[0, 0].tobytes() for i in range(count) for j in range(count)}
    assert shown == pairs
    assert len(asked) == count * (count + 1) // 2 == told[-1][0] == told[-1][1]
    assert set(np.unique(np.concatenate(asked))) == {0, GREY}


def test_the_shares_are_of_all_images() -> None:
    images = small_images(3)
    labels = brightness(images)
    labels[:10] = (labels[:10] + 1) % 3  # ten that the model has wrong
    masks, told = covering_masks((4, 4), 2, per_axis=2), list[tuple[int, int]]()
    found = certify(
        brightness, images, labels, masks, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(done, masks.steps) for done in range(1, masks.steps + 1)]
    assert found.clean["n"] == found.masked["n"] == found.certified["n"] == len(images)
    assert found.clean["k"] == len(images) - 10
    assert not found.holds[:10].any()
    assert found.certified["k"] == int(found.holds.sum()) <= found.masked["k"]
    assert found.mean_passes >= len(found.masks)


def test_a_patch_is_counted_where_masked_inference_was_right_and_never_beats_a_certificate() -> (
    None
):
    model = linear(2)
    images, masks = small_images(7), covering_masks((4, 4), 2, per_axis=2)
    labels = model(images)
    labels[:5] = (labels[:5] + 1) % 3  # five that the model has wrong
    found = certify(model, images, labels, masks)
    rows = np.arange(2, len(images))
    right = found.classes[rows] == labels[rows]
    won = []
    for top, left, *values in itertools.product(range(3), range(3), *[(0, 255)] * 4):
        patched = images[rows]
        patched[:, :, top : top + 2, left : left + 2] = np.array(values).reshape(2, 2)
        success = attack_masked(model, found, rows, patched, labels[rows])
        answered = predict_masked(model, patched, masks).classes
        assert success.share["n"] == int(right.sum()) < len(rows)
        assert success.share["k"] == int((right & (answered != labels[rows])).sum())
        won.append(success.share["k"])
    assert max(won) > 0
    assert found.holds[rows].any()

    def moody(given: NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.full(len(given), 3)

    # A model that answers otherwise when it is asked again keeps no certificate.
    with pytest.raises(InputError, match="images that are certified"):
        attack_masked(moody, found, rows, patched, labels[rows])
    # Also where the patch has a target, and the answer is another class than that.
    for target in range(3):
        with pytest.raises(InputError, match="images that are certified"):
            attack_masked(moody, found, rows, patched, labels[rows], target)
    first = rows[found.holds[rows]][0]
    with pytest.raises(InputError, match=f"the first of which is number {first}:"):
        attack_masked(moody, found, rows, patched, labels[rows])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: covering_masks((8, 8), 9), InputError, "9 px does not fit images of 8×8"),
        (lambda: covering_masks((8, 8), 0), InputError, "0 px"),
        (lambda: covering_masks((8, 8), 2, per_axis=1), UsageError, "2 or more masks"),
        (
            lambda: certified(
                brightness,
                np.zeros((1, 3, 4, 4), np.uint8),
                np.zeros(1, np.int64),
                covering_masks((8, 8), 2),
            ),
            InputError,
            "images of 8×8 px, as the masks are for, got 4×4",
        ),
        (
            lambda: predict_masked(
                brightness, np.zeros((0, 3, 8, 8), np.uint8), covering_masks((8, 8), 2)
            ),
            NothingToEvaluate,
            "at least one image to certify",
        ),
    ],
)
def test_what_cannot_be_certified_is_said(
    call: Callable[[], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        call()
