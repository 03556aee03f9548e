"""Batches: an order for each epoch and an augmentation for each step.

The images stay where they are, in memory or mapped from disk, and a batch is read by index and sent
to the device; only on another device than the CPU, where they fit, do they move there as a whole.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deploy.core.double_masking import GREY as MASK_GREY
from training.config import TrainingConfig
from training.data import ImageSet
from training.defenses import Batch
from training.randomness import generator_for

PADDING_PX = 4
GREY = 128
"""Padding value: the byte that the network normalises to 0."""

_MOVED_AT_ONCE = 1024


class Batches:
    """The batches of a training, each a pure function of (seed, step).

    ``steps_per_epoch`` is what an epoch has; a rest smaller than a batch is left out.
    """

    def __init__(
        self, training_set: ImageSet, config: TrainingConfig, device: torch.device
    ) -> None:
        self._config, self._device = config, device
        self._images = _Images(training_set.images, device)
        self._labels = torch.from_numpy(training_set.labels).to(device)
        self._order = (-1, torch.empty(0, dtype=torch.int64))
        self.steps_per_epoch = len(training_set) // config.training.batch_size

    def at(self, step: int) -> Batch:
        """The batch of ``step``, on the device."""
        epoch = step // self.steps_per_epoch
        if epoch != self._order[0]:
            order = epoch_order(len(self._labels), epoch, self._config.seed)
            self._order = (epoch, order)
        size = self._config.training.batch_size
        start = step % self.steps_per_epoch * size
        chosen = self._order[1][start : start + size]
        data, seed = self._config.data, self._config.seed
        pixels = augment(self._images.read(chosen), data.augment, step, seed)
        if data.masks > 0.0:
            pixels = masked(pixels, data.masks, data.mask_px, step, seed)
        chosen = chosen.to(self._device)
        return Batch(
            pixels=pixels.float().contiguous(memory_format=torch.channels_last),
            labels=self._labels[chosen],
            indices=chosen,
        )


class _Images:
    """Images by index, uint8 on the device."""

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        self._images, self._device = images, device
        self._moved: Tensor | None = None
        if device.type != "cpu" and fits(images.nbytes, device):
            self._moved = torch.empty(images.shape, dtype=torch.uint8, device=device)
            for start in range(0, len(images), _MOVED_AT_ONCE):
                part = images[start : start + _MOVED_AT_ONCE]
                self._moved[start : start + _MOVED_AT_ONCE] = torch.tensor(part)

    def read(self, chosen: Tensor) -> Tensor:
        """Images number ``chosen`` (int64 (N,) on the CPU), uint8 N×3×H×W, on the device."""
        if self._moved is not None:
            return self._moved[chosen.to(self._device)]
        return torch.from_numpy(self._images[chosen.numpy()]).to(self._device)


def fits(image_bytes: int, device: torch.device) -> bool:
    """Whether a training set may live on ``device``: on a GPU, in half of its free memory."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return image_bytes * 2 < free


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


def masked(images: Tensor, share: float, sides_px: tuple[int, int], step: int, seed: int) -> Tensor:
    """uint8 N×3×H×W, of which a ``share`` shows one or two grey squares, anywhere, of a side drawn
    from ``sides_px`` (least, greatest); a square larger than the image hides all of it."""
    generator = generator_for(seed, step, "masks")
    count, _, height, width = images.shape
    device = images.device
    low, high = sides_px
    sides = torch.randint(low, high + 1, (2, count), generator=generator)
    drawn = torch.rand((2, 2, count), generator=generator)
    # The first square with probability `share`, the second on half of those.
    shows = torch.rand(count, generator=generator) < share
    second = torch.rand(count, generator=generator) < 0.5
    hidden = torch.zeros((count, height, width), dtype=torch.bool)
    for side, place, where in zip(sides, drawn, (shows, shows & second), strict=True):
        hidden |= where[:, None, None] & squares(side, place, (height, width))
    return images.masked_fill(hidden[:, None].to(device), MASK_GREY)


def squares(sides: Tensor, places: Tensor, image_size: tuple[int, int]) -> Tensor:
    """bool N×H×W: a square for each image, of its side in pixels (int64 N), where its place says:
    2×N, down and right, 0 the first place that there is and 1 (excluded) behind the last."""
    spans = []
    for place, length in zip(places, image_size, strict=True):
        start = (place * (length - sides + 1).clamp(min=1)).long()[:, None]
        along = torch.arange(length)
        spans.append((along >= start) & (along < start + sides[:, None]))
    return spans[0][:, :, None] & spans[1][:, None, :]
