"""One optimization problem of an attack, with everything that the attack may use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eval.attacks.found import Found
from eval.attacks.settings import AttackSettings
from training.patching import paste
from training.prediction import SwitchableNetwork


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A source network and the images that a patch is to be found for.

    Attributes:
        network: the source, in evaluation mode, its parameters without gradients.
        images: uint8 N×3×H×W, on the network's device.
        labels: int64 N.
        mask: bool h×w.
        start: float P×3×h×w, the initial content; P = N per image, 1 for a universal patch.
        positions: int64 N×2, the places of this problem; a universal patch may use others.
        universal: whether one patch is for all images.
        settings: the attack's.
        generator: the only source of randomness (a CPU generator).
        found: keeps the state of a long optimization, see ``Ascent``; None keeps nothing.
    """

    network: SwitchableNetwork
    images: Tensor
    labels: Tensor
    mask: Tensor
    start: Tensor
    positions: Tensor
    universal: bool
    settings: AttackSettings
    generator: torch.Generator
    found: Found | None = None

    def fresh_positions(self, count: int) -> Tensor:
        """Places for ``count`` images drawn by the settings' law: int64 count×2."""
        return self.settings.positions(count, self.images.shape[2:], self.generator)

    def paste(self, pixels: Tensor, patch: Tensor, positions: Tensor) -> Tensor:
        """As ``training.patching.paste``, with this mask."""
        return paste(pixels, patch, self.mask, positions)


@dataclass(frozen=True, kw_only=True)
class Crafted:
    """The result of an attack; the base class clips, rounds and scores it.

    Attributes:
        patch: float P×3×h×w, 0…255.
        positions: int64 N×2 where the attack chose the places itself; None keeps the problem's.
    """

    patch: Tensor
    positions: Tensor | None = None
