"""A library of textures, made from training images and from noise."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

TextureSource = Literal["images", "noise", "both"]


def texture_library(
    images: NDArray[np.uint8],
    *,
    count: int,
    size_px: int,
    source: TextureSource,
    generator: torch.Generator,
) -> Tensor:
    """Textures that patches can be cut from: uint8 count×3×c×c, c twice the patch's side.

    ``images``: cut-outs of training images; every second one is a small piece repeated in
    mirrored tiles, which makes a texture of what it shows. ``noise``: coloured noise, each at a
    grain of its own, stretched to the full range. ``both``: half of the one, half of the other.

    Args:
        images: uint8 M×3×H×W.
        count: how many.
        size_px: side of the patch; c is at most the image's shorter side.
        source: what they are made of.
        generator: draws everything.
    """
    side = min(2 * size_px, *images.shape[2:])
    of_images = {"images": count, "noise": 0, "both": (count + 1) // 2}[source]
    made = [
        _repeated(images, side, generator) if number % 2 else _cut(images, side, generator)
        for number in range(of_images)
    ]
    made += [_noise(side, generator) for _ in range(count - of_images)]
    return torch.stack(made)


def _cut(images: NDArray[np.uint8], side: int, draw: torch.Generator) -> Tensor:
    limits = (len(images), images.shape[2] - side + 1, images.shape[3] - side + 1)
    chosen, top, left = (int(torch.randint(limit, (), generator=draw)) for limit in limits)
    return torch.from_numpy(images[chosen, :, top : top + side, left : left + side].copy())


def _repeated(images: NDArray[np.uint8], side: int, draw: torch.Generator) -> Tensor:
    smallest = min(2, side)
    largest = max(side // 2, smallest)
    piece = _cut(images, int(torch.randint(smallest, largest + 1, (), generator=draw)), draw)
    mirrored = torch.cat([piece, piece.flip(1)], dim=1)
    mirrored = torch.cat([mirrored, mirrored.flip(2)], dim=2)
    times = -(-side // mirrored.shape[1])
    return mirrored.repeat(1, times, times)[:, :side, :side]


def _noise(side: int, draw: torch.Generator) -> Tensor:
    cells = int(torch.randint(2, max(side, 2) + 1, (), generator=draw))
    grain = torch.rand(1, 3, cells, cells, generator=draw)
    smooth = functional.interpolate(grain, size=(side, side), mode="bilinear", align_corners=True)
    low, high = smooth.amin(dim=(2, 3), keepdim=True), smooth.amax(dim=(2, 3), keepdim=True)
    stretched = (smooth - low) / (high - low).clamp_min(1e-6) * 255.0
    return stretched[0].round().to(torch.uint8)
