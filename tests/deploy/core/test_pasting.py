from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.images import check_images
from deploy.core.pasting import paste

CIRCLE = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)


def _by_loops(
    images: np.ndarray, patch: np.ndarray, mask: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    out = images.copy()
    for n, (top, left) in enumerate(positions):
        own: np.ndarray = patch[n if len(patch) > 1 else 0]
        for row, column in zip(*np.nonzero(mask), strict=True):
            out[n, :, top + row, left + column] = own[:, row, column]
    return out


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("mask", [np.ones((3, 3), bool), CIRCLE, np.ones((2, 4), bool)])
def test_paste_is_the_loop(images: np.ndarray, mask: np.ndarray, per_image: bool) -> None:
    rng = np.random.default_rng(0)
    count = len(images)
    patch = rng.integers(0, 256, size=(count if per_image else 1, 3, *mask.shape), dtype=np.uint8)
    last = 8 - np.array(mask.shape)
    positions = rng.integers(0, last + 1, size=(count, 2)).astype(np.int32)
    positions[:2] = np.array([[0, 0], last.tolist()])
    before = images.copy()
    pasted = paste(images, patch, mask, positions)
    np.testing.assert_array_equal(images, before)  # the argument is not touched
    np.testing.assert_array_equal(pasted, _by_loops(images, patch, mask, positions))
    assert pasted.dtype == np.uint8
    assert (pasted != images).any(axis=(1, 2, 3)).all()


def test_a_patch_as_large_as_the_image_replaces_it(images: np.ndarray) -> None:
    patch = np.full((1, 3, 8, 8), 7, np.uint8)
    positions = np.zeros((len(images), 2), np.int32)
    assert (paste(images, patch, np.ones((8, 8), bool), positions) == 7).all()


@pytest.mark.parametrize("position", [(-1, 0), (0, -1), (6, 0), (0, 6), (2**31 - 1, 0)])
def test_a_position_outside_is_named(images: np.ndarray, position: tuple[int, int]) -> None:
    positions = np.zeros((len(images), 2), np.int32)
    positions[4] = position
    with pytest.raises(InputError, match=r"image 4: .*allowed are \(0, 0\) to \(5, 5\)"):
        paste(images, np.zeros((1, 3, 3, 3), np.uint8), CIRCLE, positions)


def test_parts_that_do_not_fit_together(images: np.ndarray) -> None:
    patch = np.zeros((1, 3, 3, 3), np.uint8)
    positions = np.zeros((len(images), 2), np.int32)
    wrong: list[tuple[Any, Any, Any]] = [
        (patch.astype(np.float32), CIRCLE, positions),
        (patch[0], CIRCLE, positions),
        (np.zeros((2, 3, 3, 3), np.uint8), CIRCLE, positions),
        (patch, CIRCLE.astype(np.uint8), positions),
        (patch, CIRCLE[:2], positions),
        (patch, np.zeros((3, 3), bool), positions),
        (patch, CIRCLE, positions.astype(np.float32)),
        (patch, CIRCLE, positions[:, :1]),
        (patch, CIRCLE, positions[:-1]),
        (np.zeros((1, 3, 9, 9), np.uint8), np.ones((9, 9), bool), positions),
    ]
    for arguments in wrong:
        with pytest.raises(InputError):
            paste(images, *arguments)


def test_check_images(images: np.ndarray) -> None:
    assert check_images(images) is images
    assert check_images(images, expected_shape=(3, 8, 8)) is images
    with pytest.raises(InputError, match="N×3×32×32"):
        check_images(images, expected_shape=(3, 32, 32))
    with pytest.raises(InputError, match=r"transpose\(0, 3, 1, 2\)"):
        check_images(images.transpose(0, 2, 3, 1))
    with pytest.raises(InputError, match="with pixels"):
        check_images(images[:, :, :0])
    with pytest.raises(InputError, match="list"):
        check_images(images.tolist())
    with pytest.raises(NothingToEvaluate):
        check_images(images[:0])


@pytest.mark.parametrize("patches", ["one", "each"])
def test_each_image_may_have_its_own_mask(images: np.ndarray, patches: str) -> None:
    rng = np.random.default_rng(1)
    count = len(images)
    patch = rng.integers(0, 256, (1 if patches == "one" else count, 3, 3, 4), dtype=np.uint8)
    mask = rng.random((count, 3, 4)) < 0.5
    mask[:, 1, 1] = True
    positions = rng.integers(0, [6, 5], size=(count, 2)).astype(np.int32)
    one_by_one = [
        paste(images[n : n + 1], patch[[n % len(patch)]], mask[n], positions[n : n + 1])
        for n in range(count)
    ]
    np.testing.assert_array_equal(paste(images, patch, mask, positions), np.concatenate(one_by_one))
    with pytest.raises(InputError, match="1 mask or one for each"):
        paste(images, patch, mask[1:], positions)
    mask[3] = False
    with pytest.raises(InputError, match="a mask that covers a pixel"):
        paste(images, patch, mask, positions)
