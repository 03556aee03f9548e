"""The interface of a defense: what it may do at a training step, and the state it keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.quantize import Network
from training.validated import validated


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch: ``pixels`` float32 N×3×H×W in [0, 255] after augmentation, ``labels`` int64 (N,),
    ``indices`` int64 (N,) of the images in the training set, all on the same device.  ``bare``:
    ``pixels`` without the grey squares of ``data.masks``, None where the squares cover nothing."""

    pixels: Tensor
    labels: Tensor
    indices: Tensor
    bare: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """The training that a defense is built for: number of ``images`` in the training set,
    ``image_size`` (H, W) in pixels, ``channels`` (3 or 1), ``classes``, total ``steps``, and the
    run's ``seed``."""

    images: int
    image_size: tuple[int, int]
    channels: int = 3
    classes: int
    steps: int
    seed: int
    bit_widths: tuple[int, ...]
    device: torch.device


@validated()
class NoSettings:
    """The settings of a defense without settings."""


class Defense(ABC):
    """Chooses the bit-width of a step, may patch its batch, and learns from its gradients.

    The loop calls, at each step and in this order, :meth:`bit_width`, :meth:`prepare`, the
    network's forward and backward pass, :meth:`extra_loss` (and its backward pass), :meth:`learn`,
    and then lets the optimizer take its step.  With ``needs_pixel_gradient`` the loop keeps the
    loss's gradient at the pixels, which costs the backward pass little.

    A defense that runs the network itself does so inside
    :func:`training.frozen.frozen_statistics`, at any bit-width, and then restores the network's
    bit-width.

    A user's own defense is a subclass that a config names by ``package.module:Class``. It is built
    with its settings, from the config's ``[defense]`` table, and the facts of the training.
    """

    settings_type: ClassVar[type[Any]] = NoSettings
    """A :func:`training.validated.validated` class: the keys of the table besides its name."""
    needs_pixel_gradient = False

    def __init__(self, settings: Any, facts: TrainingFacts) -> None:
        self.settings, self.facts = settings, facts

    @abstractmethod
    def bit_width(self, step: int) -> int:
        """The bit-width of the network at ``step``, a pure function of (step, seed)."""

    def prepare(self, step: int, batch: Batch, network: Network) -> Tensor:
        """The pixels that ``network`` (in training mode, at the step's bit-width) is trained on at
        this step: float32 N×3×H×W, [0, 255]."""
        del step, network
        return batch.pixels

    def extra_loss(
        self, step: int, batch: Batch, pixels: Tensor, network: Network
    ) -> Tensor | None:
        """A scalar whose gradient at the weights is added to that of the training loss, or None.

        ``pixels`` are the prepared ones, detached.
        """
        del step, batch, pixels, network
        return None

    def learn(self, step: int, gradient: Tensor | None, logits: Tensor, batch: Batch) -> None:
        """Learn from the step's result: ``gradient`` of the loss at the prepared pixels (if
        requested) and ``logits`` N×classes, both detached."""
        del step, gradient, logits, batch

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint must hold so that training resumes to the same bytes."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state` returned."""
        del tensors

    def patch_files(self) -> Mapping[str, Mapping[str, NDArray[np.generic]]]:
        """The universal patches that the training made, as arrays of npz files by name; see
        :meth:`training.defenses.universal_pool.UniversalPool.files`."""
        return {}
