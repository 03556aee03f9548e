"""The interface of a defense: what it may do at a training step, and the state it keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.quantizers import BitWidthSwitch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch: ``pixels`` float32 N×3×H×W in [0, 255] after augmentation, ``labels`` int64 (N,),
    ``indices`` int64 (N,) of the images in the training set, all on the same device."""

    pixels: Tensor
    labels: Tensor
    indices: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What a defense is built for: ``images`` in the training set, ``image_size`` (H, W) in
    pixels, ``classes``, total ``steps``, and the run's ``seed``."""

    images: int
    image_size: tuple[int, int]
    classes: int
    steps: int
    seed: int
    bit_widths: tuple[int, ...]
    device: torch.device


class Defense(ABC):
    """Chooses the bit-width of a step, may patch its batch, and learns from its gradients.

    The loop calls, at each step and in this order, :meth:`bit_width`, :meth:`prepare`, the
    network's forward and backward pass, :meth:`learn`.  ``needs_pixel_gradient`` tells the loop to
    keep the loss's gradient at the pixels, which the backward pass then yields for little.
    """

    needs_pixel_gradient = False

    @abstractmethod
    def bit_width(self, step: int) -> int:
        """The bit-width of the network at ``step``, a pure function of (step, seed)."""

    def prepare(self, step: int, batch: Batch, switch: BitWidthSwitch) -> Tensor:
        """The pixels that the network is trained on at this step (float32 N×3×H×W, [0, 255])."""
        del step, switch
        return batch.pixels

    def learn(self, step: int, gradient: Tensor | None, logits: Tensor, batch: Batch) -> None:
        """Look at the step's result: ``gradient`` of the loss at the prepared pixels (if asked
        for), ``logits`` N×classes, both detached."""
        del step, gradient, logits, batch

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint must hold so that training resumes to the same bytes."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        del tensors
