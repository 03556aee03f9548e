"""The differentiable paste and the white-box patch step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deploy.core import pasting
from deploy.core.errors import InputError
from training.patching import (
    circle_mask,
    falling_step_size,
    paste,
    patch_gradient,
    random_positions,
    square_mask,
    step_along_sign,
)

SIZE = (32, 24)


def _case(patches: int, mask: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    side = mask.shape[0]
    pixels = torch.randint(0, 256, (5, 3, *SIZE), generator=generator).float()
    patch = torch.randint(0, 256, (patches, 3, side, side), generator=generator).float()
    return pixels, patch, random_positions(5, SIZE, (side, side), generator)


@pytest.mark.parametrize("patches", [1, 5])
@pytest.mark.parametrize("mask", [square_mask(6), circle_mask(7)], ids=["square", "circle"])
def test_equals_the_one_definition_of_pasting(patches: int, mask: torch.Tensor) -> None:
    pixels, patch, positions = _case(patches, mask)
    expected = pasting.paste(
        pixels.numpy().astype(np.uint8),
        patch.numpy().astype(np.uint8),
        mask.numpy(),
        positions.numpy().astype(np.int32),
    )
    pasted = paste(pixels, patch, mask, positions)
    assert np.array_equal(pasted.numpy(), expected.astype(np.float32))
    assert not torch.equal(pasted, pixels)


def test_the_input_is_left_alone() -> None:
    pixels, patch, positions = _case(1, square_mask(6))
    before = pixels.clone()
    paste(pixels, patch, square_mask(6), positions)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("patches", [1, 5])
def test_gathered_gradient_is_autograds(patches: int) -> None:
    mask = circle_mask(6)
    pixels, patch, positions = _case(patches, mask)
    weights = torch.randn(5, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    patch.requires_grad_()
    (paste(pixels, patch, mask, positions) * weights).sum().backward()
    gathered = patch_gradient(weights, mask, positions, patches=patches)
    assert patch.grad is not None
    torch.testing.assert_close(gathered, patch.grad)
    assert not gathered[:, :, ~mask].any()


def test_owners_share_a_pool_of_patches() -> None:
    mask = square_mask(6)
    pixels, _, positions = _case(1, mask)
    _, pool, _ = _case(5, mask, seed=3)
    pool = pool[:2].requires_grad_()
    owners = torch.tensor([1, 0, 1, 1, 0])
    pasted = paste(pixels, pool, mask, positions, owners=owners)
    assert torch.equal(pasted, paste(pixels, pool[owners], mask, positions))
    weights = torch.randn(5, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    (pasted * weights).sum().backward()
    gathered = patch_gradient(weights, mask, positions, patches=2, owners=owners)
    assert pool.grad is not None
    torch.testing.assert_close(gathered, pool.grad)


def test_a_step_moves_by_its_size_inside_mask_and_range() -> None:
    mask = circle_mask(6)
    _, patch, positions = _case(5, mask)
    patch[0] = 254.0
    gradient = patch_gradient(torch.ones(5, 3, *SIZE), mask, positions)
    raised = step_along_sign(patch, gradient, 4.0)
    assert torch.equal(raised[:, :, mask], (patch[:, :, mask] + 4.0).clamp(max=255.0))
    assert torch.equal(raised[:, :, ~mask], patch[:, :, ~mask])
    lowered = step_along_sign(patch, gradient, -300.0)
    assert not lowered[:, :, mask].any()
    sizes = torch.arange(5.0).view(5, 1, 1, 1)
    each = step_along_sign(patch, gradient, sizes)
    assert torch.equal(each[2], step_along_sign(patch, gradient, 2.0)[2])


def test_universal_step_follows_the_sum_over_images() -> None:
    mask = square_mask(4)
    _, patch, positions = _case(1, mask)
    patch[:] = 100.0
    gradient = torch.tensor([1.0, 1.0, -5.0, 1.0, 1.0])[:, None, None, None].expand(5, 3, *SIZE)
    own = patch_gradient(gradient, mask, positions, patches=1)
    assert torch.equal(step_along_sign(patch, own, 2.0), torch.full_like(patch, 98.0))


def test_momentum_keeps_the_direction_that_gradients_agree_on() -> None:
    patch, velocity = torch.full((1, 3, 2, 2), 100.0), torch.zeros(1, 3, 2, 2)
    first = step_along_sign(patch, torch.full_like(patch, 8.0), 1.0, velocity=velocity)
    assert torch.equal(first, patch + 1.0)
    assert torch.equal(velocity, torch.ones_like(patch))
    against = torch.full_like(patch, -0.5)
    second = step_along_sign(first, against, 1.0, velocity=velocity, momentum=2.0)
    assert torch.equal(second, patch + 2.0)
    third = step_along_sign(second, torch.zeros_like(patch), 1.0, velocity=velocity, momentum=0.5)
    assert torch.equal(third, patch + 3.0)


def test_a_falling_step_ends_at_a_tenth() -> None:
    sizes = [falling_step_size(20.0, done, 3) for done in range(3)]
    assert sizes == pytest.approx([20.0, 11.0, 2.0])
    assert falling_step_size(20.0, torch.tensor([0, 2]), 3).tolist() == pytest.approx([20.0, 2.0])
    assert falling_step_size(20.0, 0, 1) == 20.0


def test_random_positions_reach_every_place_and_repeat_with_the_seed() -> None:
    drawn = [
        random_positions(4000, SIZE, (30, 20), torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    everywhere = {(top, left) for top in range(3) for left in range(5)}
    assert set(map(tuple, drawn[0].tolist())) == everywhere


def test_circle_lies_in_its_box_and_is_symmetric() -> None:
    for size in range(1, 12):
        mask = circle_mask(size)
        assert torch.equal(mask, mask.T)
        assert torch.equal(mask, mask.flip(0))
        assert mask[:, 0].any()
        assert abs(mask.sum().item() - np.pi * size**2 / 4) <= 1.5 * size


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([[-1, 0]], "positions inside the image"),
        ([[0, 19]], "positions inside the image"),
        ([[0, 0], [0, 0]], "positions 1×2"),
    ],
    ids=["negative", "over the edge", "too many"],
)
def test_wrong_positions_are_refused(positions: list[list[int]], message: str) -> None:
    pixels = torch.zeros(1, 3, *SIZE)
    with pytest.raises(InputError, match=message):
        paste(pixels, torch.zeros(1, 3, 6, 6), square_mask(6), torch.tensor(positions))


def test_wrong_patches_are_refused() -> None:
    pixels, positions = torch.zeros(3, 3, *SIZE), torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(InputError, match="2 patches for 3 images"):
        paste(pixels, torch.zeros(2, 3, 6, 6), square_mask(6), positions)
    with pytest.raises(InputError, match="does not fit"):
        paste(pixels, torch.zeros(1, 3, 40, 40), square_mask(40), positions)
