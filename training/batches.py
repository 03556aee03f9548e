"""Batches: an order for each epoch and an augmentation for each step, on the images' device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.randomness import generator_for

PADDING_PX = 4
GREY = 128
"""Padding value: the byte that the network normalises to 0."""


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether the training set may live on ``device``: on a GPU, in half of its free memory."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.numel() * images.element_size() * 2 < free


def epoch_order(images: int, epoch: int, seed: int) -> Tensor:
    """A permutation of the training set, int64 (images,), a pure function of (epoch, seed)."""
    return torch.randperm(images, generator=generator_for(seed, epoch, "order"))


def augment(images: Tensor, how: str, step: int, seed: int) -> Tensor:
    """uint8 N×3×H×W, each image cropped at a random offset and mirrored half of the time.

    ``how``: "crop-flip", "crop" or "none" (:class:`training.config.DataSettings`).
    """
    if how == "none":
        return images
    generator = generator_for(seed, step, "augmentation")
    count, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (PADDING_PX,) * 4, value=GREY)
    offsets = torch.randint(0, 2 * PADDING_PX + 1, (2, count), generator=generator).to(device)
    rows = offsets[0][:, None] + torch.arange(height, device=device)
    columns = offsets[1][:, None] + torch.arange(width, device=device)
    if how == "crop-flip":
        mirrored = (torch.rand(count, generator=generator) < 0.5).to(device)
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    index = torch.arange(count, device=device)[:, None, None]
    cropped = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)
