"""Where a patch's box goes: a fixed place, or one drawn for each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from deploy.core.errors import InputError
from training.patching import random_positions

Placement = Literal["random", "centre", "top-left", "top-right", "bottom-left", "bottom-right"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)


def positions_for(
    placement: Placement,
    count: int,
    image_size: Sequence[int],
    patch_size: Sequence[int],
    generator: torch.Generator,
    *,
    margin_px: int = 0,
) -> Tensor:
    """Positions, int64 count×2 (top, left) on the CPU; sizes are (height, width) in pixels.

    Args:
        margin_px: distance of a corner placement from the image's edges, in pixels; the other
            placements have none.
        generator: a CPU generator; only the random placement draws from it.

    Raises:
        InputError: the patch, with its margin, does not fit into the image.
    """
    free = [image - patch for image, patch in zip(image_size, patch_size, strict=True)]
    if min(free) < margin_px or margin_px < 0:
        raise InputError(
            f"A patch of {patch_size[0]}×{patch_size[1]} px, {margin_px} px from the edge, does "
            f"not fit into an image of {image_size[0]}×{image_size[1]} px."
        )
    if placement == "random":
        (height, width), (rows, columns) = image_size, patch_size
        return random_positions(count, (height, width), (rows, columns), generator)
    if placement == "centre":
        place = [free[0] // 2, free[1] // 2]
    else:
        vertical, horizontal = placement.split("-")
        place = [
            margin_px if vertical == "top" else free[0] - margin_px,
            margin_px if horizontal == "left" else free[1] - margin_px,
        ]
    return torch.tensor([place], dtype=torch.int64).repeat(count, 1)
