"""The images of an analysis under every form of patch set."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.core.patch_set import Kind, PatchSet
from eval.measure.analyses.sample import covered, draw_sample
from training.data.image_set import image_set

COUNT, SIDE, BOX = 6, 16, 4
RNG = np.random.default_rng(3)


def patch_set(kind: Kind, *, patches: int, own_masks: bool) -> PatchSet:
    shape = (COUNT, BOX, BOX) if own_masks else (BOX, BOX)
    mask = RNG.random(shape) < 0.6
    mask[..., 0, 0] = True
    return PatchSet(
        name="any",
        kind=kind,
        patch=RNG.integers(0, 256, (patches, 3, BOX, BOX), dtype=np.uint8),
        mask=mask,
        positions=RNG.integers(0, SIDE - BOX + 1, (COUNT, 2), dtype=np.int32),
        image_indices=np.arange(COUNT)[::-1].copy(),
    )


@pytest.mark.parametrize("count", [None, 4])
@pytest.mark.parametrize(
    ("kind", "patches", "own_masks"),
    [
        ("universal", 1, False),
        ("universal", COUNT, True),  # turned or scaled differently on each image
        ("per-image", COUNT, False),
        ("per-image", COUNT, True),
    ],
)
def test_each_image_keeps_its_own_patch_mask_and_place(
    kind: Kind, patches: int, own_masks: bool, count: int | None
) -> None:
    whole = patch_set(kind, patches=patches, own_masks=own_masks)
    pixels = RNG.integers(0, 256, (COUNT, 3, SIDE, SIDE), dtype=np.uint8)
    labels = np.arange(COUNT) % 2
    images = image_set(pixels, labels, ("a", "b"), name="noise", split="test")
    sample = draw_sample(images, whole, count)
    assert len(sample) == (count or COUNT)
    pasted = whole.paste_on(pixels[whole.image_indices])
    rows = [whole.image_indices.tolist().index(i) for i in sample.patch_set.image_indices]
    np.testing.assert_array_equal(sample.patched, pasted[rows])
    np.testing.assert_array_equal(sample.labels, labels[sample.patch_set.image_indices])
    # White on black shows where the patch lies.
    white = PatchSet(
        **{**vars(sample.patch_set), "patch": np.full_like(sample.patch_set.patch, 255)}
    )
    shown = white.paste_on(np.zeros_like(sample.clean))[:, 0] == 255
    np.testing.assert_array_equal(sample.region, shown)
    np.testing.assert_array_equal(covered(sample.patch_set, (SIDE, SIDE)), shown)
    moved = sample.patched_at(2, 3)
    changed = (moved != sample.clean).any(axis=1)
    assert changed[:, 2 : 2 + BOX, 3 : 3 + BOX].any()
    changed[:, 2 : 2 + BOX, 3 : 3 + BOX] = False
    assert not changed.any()
