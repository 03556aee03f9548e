"""Grey squares on training images: how many, how large, always the same for a step."""

from __future__ import annotations

import pytest
import torch

from deploy.core.double_masking import GREY
from deploy.core.errors import InputError
from training.batches import masked
from training.config import config_from_dict

IMAGES = torch.zeros((400, 3, 20, 24), dtype=torch.uint8)


def test_a_share_of_the_images_shows_one_or_two_squares() -> None:
    shown = masked(IMAGES, 0.5, (4, 4), 3, 1)
    assert torch.equal(shown, masked(IMAGES, 0.5, (4, 4), 3, 1))
    assert not torch.equal(shown, masked(IMAGES, 0.5, (4, 4), 4, 1))
    assert set(shown.unique().tolist()) == {0, GREY}
    assert torch.equal(shown[:, 0], shown[:, 2])
    area = (shown[:, 0] == GREY).sum(dim=(1, 2))
    assert set(area.tolist()) <= {0, *range(16, 33)}
    assert 160 <= int((area > 0).sum()) <= 240
    assert 60 <= int((area > 16).sum()) <= 140  # half of them a second one, seldom on the first
    # Anywhere: every pixel is hidden now and then.
    assert bool(masked(IMAGES, 1.0, (4, 4), 0, 0)[:, 0].any(dim=0).all())


def test_sides_are_drawn_from_their_range_and_may_exceed_the_image() -> None:
    areas = (masked(IMAGES, 1.0, (2, 3), 0, 0)[:, 0] == GREY).sum(dim=(1, 2))
    assert int(areas.min()) == 4 and int(areas.max()) <= 18
    assert bool((masked(IMAGES, 1.0, (30, 30), 0, 0) == GREY).all())
    assert torch.equal(masked(IMAGES, 0.0, (4, 4), 0, 0), IMAGES)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("masks", 1.5, "data.masks"), ("mask_px", [8, 4], "smaller first"), ("mask_px", [0, 4], "1")],
)
def test_settings_out_of_range_are_refused(key: str, value: object, words: str) -> None:
    table = {
        "name": "x",
        "seed": 0,
        "data": {"kind": "digits", key: value},
        "network": {"name": "resnet8", "bit_widths": [4]},
        "training": {"epochs": 1.0},
    }
    with pytest.raises(InputError, match=words):
        config_from_dict(table, "x.toml")
