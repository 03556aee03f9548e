"""Pasting a scaled and turned patch: for pools of patches, and for the expectation of attacks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def paste_warped(
    pixels: Tensor,
    patch: Tensor,
    mask: Tensor,
    positions: Tensor,
    *,
    scales: Tensor,
    angles: Tensor,
) -> Tensor:
    """Paste each image's patch scaled and turned about the centre of its box.

    A pixel at offset d from the box's centre shows the patch at R(−angle)·d / scale, bilinearly
    interpolated, where the mask holds there (nearest pixel: the edge stays hard, as in a paste).
    At scale 1 and angle 0 it equals ``training.patching.paste``. What leaves the image is cut off.

    Args:
        pixels: float N×3×H×W, 0…255.
        patch: float P×3×h×w, P = 1 or N; the result is differentiable in it.
        mask: bool h×w.
        positions: integer N×2, (top, left) of the box before it is scaled and turned.
        scales: float N, factors on the side of the patch.
        angles: float N, radians, clockwise on the image.

    Returns a new tensor, N×3×H×W.
    """
    count, _, height, width = pixels.shape
    side = torch.tensor(mask.shape, dtype=pixels.dtype, device=pixels.device)
    centres = positions.to(pixels) + (side - 1) / 2
    down = torch.arange(height, device=pixels.device)[None, :, None] - centres[:, 0, None, None]
    right = torch.arange(width, device=pixels.device)[None, None, :] - centres[:, 1, None, None]
    cosine = (angles.to(pixels).cos() / scales.to(pixels))[:, None, None]
    sine = (angles.to(pixels).sin() / scales.to(pixels))[:, None, None]
    # In patch pixels about its centre, then in grid_sample's units: ±1 are the box's edges.
    own_right = (cosine * right + sine * down) * (2 / side[1])
    own_down = (cosine * down - sine * right) * (2 / side[0])
    grid = torch.stack([own_right, own_down], dim=-1)
    content = functional.grid_sample(
        patch.expand(count, -1, -1, -1), grid, padding_mode="border", align_corners=False
    )
    alpha = functional.grid_sample(
        mask.to(pixels).expand(count, 1, -1, -1), grid, mode="nearest", align_corners=False
    )
    return torch.where(alpha > 0.5, content, pixels)
