"""A patch that the Adversarial Robustness Toolbox made: its count of successes and ours.

Its class in torch needs torchvision; the one in numpy does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.success import attack_success
from eval.attacks.pixel.library import AtBitWidth, art_classifier, load_library
from eval.attacks.predictions import predict
from eval.attacks.supplied.placing import PlacingSettings, placed_patch_sets
from eval.attacks.supplied.reading import read_supplied
from training.data import ImageSet
from training.prediction import SwitchableNetwork

SCALE = 0.5
TARGET = 3


@pytest.fixture(scope="module")
def art_patch(digit_network: SwitchableNetwork, digits: ImageSet) -> Any:
    """ART's attack after a few of its steps, always pasted at the centre."""
    load_library()
    from art.attacks.evasion.adversarial_patch.adversarial_patch_numpy import AdversarialPatchNumpy

    class Mended(AdversarialPatchNumpy):
        """ART 1.20 takes numpy 2's scalars for arrays when it sets the start."""

        def reset_patch(self, initial_patch_value: Any) -> None:
            super().reset_patch(None if np.ndim(initial_patch_value) == 0 else initial_patch_value)

    classifier = art_classifier(AtBitWidth(digit_network, 32), (3, 32, 32), 10, digit_network)
    attack = Mended(
        classifier,
        rotation_max=0.0,
        scale_min=SCALE,
        scale_max=SCALE,
        learning_rate=0.3,
        max_iter=12,
        batch_size=64,
        targeted=True,
        verbose=False,
    )
    images = digits.images[:64].astype(np.float32) / 255.0
    attack.generate(x=images, y=np.full(64, TARGET), mask=_centre())
    return attack


def _centre() -> np.ndarray:
    mask = np.zeros((1, 32, 32), np.bool_)
    mask[0, 16, 16] = True
    return mask


def test_both_count_the_same_successes_image_for_image(
    art_patch: Any, digit_network: SwitchableNetwork, held_out_digits: ImageSet
) -> None:
    from art.utils import compute_success_array

    images, labels = held_out_digits.images, held_out_digits.labels
    pixels = images.astype(np.float32) / 255.0
    shown = np.rint(art_patch.apply_patch(pixels, scale=SCALE, mask=_centre()) * 255.0)
    shown = shown.astype(np.uint8)
    theirs = {
        targeted: compute_success_array(
            art_patch.estimator,
            pixels,
            np.eye(10)[np.full_like(labels, TARGET) if targeted else labels],
            shown.astype(np.float32) / 255.0,
            targeted=targeted,
        ).astype(bool)
        for targeted in (True, False)
    }
    clean, patched = (predict(digit_network, some, 32) for some in (images, shown))
    for targeted, counted in theirs.items():
        ours = attack_success(clean, patched, labels, TARGET if targeted else None)
        assert 0.2 < ours.share["value"] <= 1.0
        # ART counts every image; the ASR those that count, see deploy.core.success.
        np.testing.assert_array_equal(counted & ours.eligible, ours.success)


def test_the_same_patch_supplied_to_us_is_pasted_as_art_pastes_it(
    art_patch: Any, digit_network: SwitchableNetwork, held_out_digits: ImageSet, tmp_path: Path
) -> None:
    images, labels = held_out_digits.images, held_out_digits.labels
    # What ART shows on black and on white tells its content and how much it covers (a soft edge).
    on_black, on_white = (
        art_patch.apply_patch(np.full((1, 3, 32, 32), v, np.float32), scale=SCALE, mask=_centre())
        for v in (0.0, 1.0)
    )
    cover = 1.0 - (on_white - on_black)[0, 0]
    hard, soft = cover > 1 - 1e-5, (cover > 1e-5) & (cover <= 1 - 1e-5)
    assert hard.sum() > soft.sum() > 0
    box = slice(8, 24)
    assert not (hard | soft)[:8].any()
    file = tmp_path / "from-art.npz"
    content = np.clip(on_black / np.maximum(cover, 1e-5), 0.0, 1.0)[:, :, box, box]
    np.savez(file, patches=content, mask=(cover >= 0.5)[box, box], targets=np.array([TARGET]))
    (ours,) = placed_patch_sets(
        read_supplied(file),
        PlacingSettings(placement="centre"),
        np.arange(len(images)),
        (32, 32),
        classes=10,
        seed=0,
    )
    pasted = ours.paste_on(images)
    theirs = art_patch.apply_patch(images.astype(np.float32) / 255.0, scale=SCALE, mask=_centre())
    as_bytes = np.rint(theirs * 255.0).astype(np.uint8)
    np.testing.assert_array_equal(pasted[:, :, ~soft], as_bytes[:, :, ~soft])
    clean, own, art = (predict(digit_network, some, 32) for some in (images, pasted, as_bytes))
    rates = [attack_success(clean, shown, labels, TARGET).share["value"] for shown in (own, art)]
    # The soft edge is all that is between them.
    assert abs(rates[0] - rates[1]) < 0.1
