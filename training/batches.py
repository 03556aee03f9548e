"""Batches: an order for each epoch and an augmentation for each step.

The images stay where they are, in memory or mapped from disk; a batch is read by index and sent to
the device.  On a device other than the CPU, the whole set is moved there if it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

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

Losses = Callable[[Tensor, Tensor], Tensor]
"""The loss of each image, (N,), of float32 pixels N×3×H×W in [0, 255] and labels int64 (N,)."""


class Batches:
    """The batches of a training, each a pure function of (seed, step).

    ``steps_per_epoch`` is the number of whole batches of an epoch; a smaller rest is left out.
    """

    def __init__(
        self, training_set: ImageSet, config: TrainingConfig, device: torch.device
    ) -> None:
        self._config, self._device = config, device
        self._images = _Images(training_set.images, device)
        self._labels = torch.from_numpy(training_set.labels).to(device)
        self._order = (-1, torch.empty(0, dtype=torch.int64))
        self.steps_per_epoch = len(training_set) // config.training.batch_size

    def at(self, step: int, losses: Losses) -> Batch:
        """The batch of ``step``, on the device.

        Args:
            step: determines the order and everything that is drawn.
            losses: called with ``data.mask_tries`` over 1 to find the hardest grey squares.
        """
        epoch = step // self.steps_per_epoch
        if epoch != self._order[0]:
            order = epoch_order(len(self._labels), epoch, self._config.seed)
            self._order = (epoch, order)
        size = self._config.training.batch_size
        start = step % self.steps_per_epoch * size
        chosen = self._order[1][start : start + size]
        data, seed = self._config.data, self._config.seed
        pixels = augment(self._images.read(chosen), data.augment, step, seed)
        chosen = chosen.to(self._device)
        labels = self._labels[chosen]
        bare = None
        if data.masks > 0.0:
            bare = _as_input(pixels)
            count, _, height, width = pixels.shape
            masks = grey_squares(
                (count, height, width), data.masks, data.mask_px, step, seed, data.mask_tries
            )
            pixels = hardest(pixels, masks, lambda shown: losses(_as_input(shown), labels))
        return Batch(pixels=_as_input(pixels), labels=labels, indices=chosen, bare=bare)


def _as_input(pixels: Tensor) -> Tensor:
    return pixels.float().contiguous(memory_format=torch.channels_last)


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


def grey_squares(
    shape: tuple[int, int, int],
    share: float,
    sides_px: tuple[int, int],
    step: int,
    seed: int,
    tries: int = 1,
) -> Iterator[Tensor]:
    """``tries`` masks of hidden pixels, bool N×H×W of ``shape``.

    On a ``share`` of the images, the same in each mask, one or two squares are hidden, anywhere,
    with a side drawn from ``sides_px`` (least, greatest).  A square larger than the image hides all
    of it.
    """
    generator = generator_for(seed, step, "masks")
    count, height, width = shape
    low, high = sides_px
    shows: Tensor | None = None
    for _ in range(tries):
        sides = torch.randint(low, high + 1, (2, count), generator=generator)
        places = torch.rand((2, 2, count), generator=generator)
        if shows is None:
            shows = torch.rand(count, generator=generator) < share
        # The second square on half of them.
        second = torch.rand(count, generator=generator) < 0.5
        hidden = torch.zeros(shape, dtype=torch.bool)
        for side, place, where in zip(sides, places, (shows, shows & second), strict=True):
            hidden |= where[:, None, None] & squares(side, place, (height, width))
        yield hidden


def hardest(images: Tensor, masks: Iterable[Tensor], losses: Callable[[Tensor], Tensor]) -> Tensor:
    """Each image (uint8 N×3×H×W), grey under the one of ``masks`` (bool N×H×W) at which its loss is
    the largest: the worst of several draws, after Greedy Cutout. A single mask needs no losses.

    References:
        Saha et al., Revisiting Image Classifier Training for Improved Certified Robust Defense
        against Adversarial Patches, TMLR 2023.
    """
    shown = [images.masked_fill(one[:, None].to(images.device), MASK_GREY) for one in masks]
    if len(shown) == 1:
        return shown[0]
    worst = torch.stack([losses(one) for one in shown]).argmax(dim=0)
    return torch.stack(shown)[worst, torch.arange(len(images), device=images.device)]


def squares(sides: Tensor, places: Tensor, image_size: tuple[int, int]) -> Tensor:
    """One square for each image, bool N×H×W.

    Sides are in pixels (int64 N).  Places are 2×N, down and right, from 0, the first possible
    place, to 1 (excluded), just after the last.
    """
    spans = []
    for place, length in zip(places, image_size, strict=True):
        start = (place * (length - sides + 1).clamp(min=1)).long()[:, None]
        along = torch.arange(length)
        spans.append((along >= start) & (along < start + sides[:, None]))
    return spans[0][:, :, None] & spans[1][:, None, :]
