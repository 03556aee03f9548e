"""Pasting a scaled and turned patch: for pools of patches, and for the expectation of attacks."""

from __future__ import annotations

import math

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
    Only a window about the box is computed, as large as the largest of the images' patches needs.

    Args:
        pixels: float N×3×H×W, 0…255.
        patch: float P×3×h×w, P = 1 or N; the result is differentiable in it.
        mask: bool h×w.
        positions: integer N×2, (top, left) of the box before it is scaled and turned.
        scales: float N, factors on the side of the patch.
        angles: float N, radians, clockwise on the image.

    Returns a new tensor, N×3×H×W.
    """
    count = pixels.shape[0]
    side = torch.tensor(mask.shape, dtype=pixels.dtype, device=pixels.device)
    centres = positions.to(pixels) + (side - 1) / 2
    cosine, sine = angles.to(pixels).cos(), angles.to(pixels).sin()
    rows, columns = _windows(pixels, mask, centres, scales.to(pixels), cosine, sine)
    down = (rows - centres[:, :1])[:, :, None]
    right = (columns - centres[:, 1:])[:, None, :]
    cosine = (cosine / scales.to(pixels))[:, None, None]
    sine = (sine / scales.to(pixels))[:, None, None]
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
    images = torch.arange(count, device=pixels.device)[:, None, None]
    window = (images, slice(None), rows[:, :, None], columns[:, None, :])
    # Integer indices on both sides of a slice put the channels last: N×K×L×3.
    shown = torch.where(alpha > 0.5, content, pixels[window].permute(0, 3, 1, 2))
    pasted = pixels.clone()
    pasted[window] = shown.permute(0, 2, 3, 1)
    return pasted


def _windows(
    pixels: Tensor, mask: Tensor, centres: Tensor, scales: Tensor, cosine: Tensor, sine: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows, int64 N×K, and columns, int64 N×L, of a window of each image that holds its patch.

    All windows have the size of the largest; a window that would leave the image is moved inside,
    and still holds the visible part of the patch.
    """
    height, width = mask.shape
    reaches = (
        scales * (cosine.abs() * height + sine.abs() * width) / 2,
        scales * (cosine.abs() * width + sine.abs() * height) / 2,
    )
    found = []
    for axis, reach in enumerate(reaches):
        length = pixels.shape[2 + axis]
        most = float(reach.max()) if len(reach) else 0.0
        # One more pixel on each side, for coordinates that float32 rounded.
        size = min(length, math.floor(2 * most) + 3)
        first = (centres[:, axis] - most).ceil().long() - 1
        first = first.clamp(0, length - size)
        found.append(first[:, None] + torch.arange(size, device=pixels.device))
    return found[0], found[1]
