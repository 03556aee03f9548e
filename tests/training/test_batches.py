"""Grey squares on training images: how many, how large, always the same for a step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deploy.core.double_masking import GREY
from deploy.core.errors import InputError
from tests.training.small_run import small_config
from training.batches import grey_squares, hardest
from training.config import config_from_dict
from training.data import load_images
from training.tensors import tensor_bytes
from training.trainer import Trainer

SHAPE = (400, 20, 24)
IMAGES = torch.zeros((400, 3, 20, 24), dtype=torch.uint8)


def never(*_: Tensor) -> Tensor:
    raise AssertionError("one draw needs no answer")


def masked(share: float, sides_px: tuple[int, int], step: int, seed: int) -> Tensor:
    """The images under one draw of grey squares."""
    return hardest(IMAGES, grey_squares(SHAPE, share, sides_px, step, seed), never)


def test_a_share_of_the_images_shows_one_or_two_squares() -> None:
    shown = masked(0.5, (4, 4), 3, 1)
    assert torch.equal(shown, masked(0.5, (4, 4), 3, 1))
    assert not torch.equal(shown, masked(0.5, (4, 4), 4, 1))
    assert set(shown.unique().tolist()) == {0, GREY}
    assert torch.equal(shown[:, 0], shown[:, 2])
    area = (shown[:, 0] == GREY).sum(dim=(1, 2))
    assert set(area.tolist()) <= {0, *range(16, 33)}
    assert 160 <= int((area > 0).sum()) <= 240
    assert 60 <= int((area > 16).sum()) <= 140  # half of them a second one, seldom on the first
    # Anywhere: every pixel is hidden now and then.
    assert bool(masked(1.0, (4, 4), 0, 0)[:, 0].any(dim=0).all())


def test_sides_are_drawn_from_their_range_and_may_exceed_the_image() -> None:
    areas = (masked(1.0, (2, 3), 0, 0)[:, 0] == GREY).sum(dim=(1, 2))
    assert int(areas.min()) == 4 and int(areas.max()) <= 18
    assert bool((masked(1.0, (30, 30), 0, 0) == GREY).all())
    assert torch.equal(masked(0.0, (4, 4), 0, 0), IMAGES)


def test_of_several_draws_each_image_shows_the_one_with_the_largest_loss() -> None:
    masks = list(grey_squares(SHAPE, 0.5, (2, 9), 3, 1, tries=4))
    assert torch.equal(masks[0], next(grey_squares(SHAPE, 0.5, (2, 9), 3, 1)))
    areas = torch.stack([hidden.sum(dim=(1, 2)) for hidden in masks])
    # The same images in each draw, and other squares.
    assert bool(((areas > 0) == (areas[0] > 0)).all())
    assert not torch.equal(areas[0], areas[1])
    shown = hardest(IMAGES, masks, lambda images: (images == GREY).float().sum(dim=(1, 2, 3)))
    assert torch.equal((shown[:, 0] == GREY).sum(dim=(1, 2)), areas.amax(dim=0))
    assert set(shown.unique().tolist()) == {0, GREY}
    assert torch.equal(shown[:, 0], shown[:, 2])


def test_the_network_is_asked_as_it_would_be_deployed_and_left_as_it_is() -> None:
    data = {"kind": "digits", "size": 16, "augment": "crop", "masks": 0.75, "mask_tries": 3}
    images = load_images("digits", None, "train", size=16)
    run = Trainer(small_config(data=data), images)
    for _ in run.network.bit_widths:  # Each has its scales now.
        run.one_step()
    run.network.set_bit_width(4)
    before = tensor_bytes(run.state(), {})
    batch = run.batches.at(1, run.losses)
    assert tensor_bytes(run.state(), {}) == before
    found = run.losses(batch.pixels, batch.labels)
    plain = small_config(data={**data, "mask_tries": 1})
    other = Trainer(plain, images)
    drawn = other.batches.at(1, never)
    assert bool((run.losses(drawn.pixels, drawn.labels) <= found + 1e-5).all())
    without = small_config(data={**data, "masks": 0.0})
    bare = Trainer(without, images).batches
    assert batch.bare is not None
    assert torch.equal(batch.bare, bare.at(1, never).pixels)
    assert bare.at(1, never).bare is None
    deployed = copy.deepcopy(run.network).for_evaluation()
    with torch.no_grad():
        logits = deployed(batch.pixels)
    wanted = F.cross_entropy(logits, batch.labels, reduction="none")
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("masks", 1.5, "data.masks"),
        ("mask_px", [8, 4], "smaller value first"),
        ("mask_px", [0, 4], "1"),
        ("mask_tries", 0, "1"),
    ],
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
