"""How a universal patch is shown: the laws of placement, and the gradient at the patch.

=========  =========================================================================================
law        a showing
=========  =========================================================================================
random     upright, at any place where it fits
corners    upright, in one of the image's four corners
posed      at any place, scaled by a factor and turned by an angle, both drawn evenly
           (:func:`training.warping.paste_warped`; what leaves the image is cut off)
=========  =========================================================================================

With ``turn``, an upright showing is turned by a random multiple of 90° first: exact on the pixel
grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from training.patching import paste, patch_gradient, random_positions
from training.warping import paste_warped

Law = Literal["random", "corners", "posed"]


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Ranges of the law "posed": ``scales`` (least, greatest factor), ``degrees`` (±)."""

    scales: tuple[float, float] = (0.75, 1.25)
    degrees: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Showing:
    """Where and how each of n images shows its patch.

    Attributes:
        mask: bool s×s.
        positions: int64 n×2, the patch's box before it is scaled and turned.
        turns: int64 n, quarters of a turn; None: all upright.
        scales: float n, and ``angles``, float n in radians; None for a law that does not pose.
    """

    mask: Tensor
    positions: Tensor
    turns: Tensor | None = None
    scales: Tensor | None = None
    angles: Tensor | None = None

    def of(self, rows: Tensor) -> Showing:
        """The showing of some of the images; ``rows`` is bool n."""
        names = ("positions", "turns", "scales", "angles")
        drawn = {name: part for name in names if (part := getattr(self, name)) is not None}
        return replace(self, **{name: part[rows] for name, part in drawn.items()})

    def paste(self, pixels: Tensor, patches: Tensor) -> Tensor:
        """``pixels`` (n×3×H×W) with image i's patch (``patches``, n×3×s×s) pasted."""
        if self.turns is not None:
            patches = turned(patches, self.turns)
        if self.scales is None or self.angles is None:
            return paste(pixels, patches, self.mask, self.positions)
        return paste_warped(
            pixels, patches, self.mask, self.positions, scales=self.scales, angles=self.angles
        )

    def gradient(self, gradient: Tensor) -> Tensor:
        """From the gradient at the pasted pixels (n×3×H×W) to each image's patch, n×3×s×s."""
        if self.scales is None:
            own = patch_gradient(gradient, self.mask, self.positions)
        else:
            side = self.mask.shape[0]
            # Pasting is linear in the patch: its transpose is the same for any patch.
            patches = gradient.new_zeros(*gradient.shape[:2], side, side).requires_grad_()
            with torch.enable_grad():
                pasted = self.paste(torch.zeros_like(gradient), patches)
            return torch.autograd.grad(pasted, patches, gradient)[0]
        return own if self.turns is None else turned(own, -self.turns)


def drawn(
    law: Law,
    count: int,
    image_size: tuple[int, int],
    mask: Tensor,
    generator: torch.Generator,
    device: torch.device,
    *,
    turn: bool = False,
    pose: Pose | None = None,
) -> Showing:
    """``count`` showings by a law, drawn on the CPU by ``generator``."""
    side = mask.shape[0]
    positions = random_positions(count, image_size, (side, side), generator)
    if law == "corners":
        corners = torch.randint(2, (count, 2), generator=generator)
        positions = corners * (torch.tensor(image_size) - side)
    turns = scales = angles = None
    if law == "posed":
        pose = pose or Pose()
        low, high = pose.scales
        scales = low + (high - low) * torch.rand(count, generator=generator)
        angles = math.radians(pose.degrees) * (2.0 * torch.rand(count, generator=generator) - 1.0)
        scales, angles = scales.to(device), angles.to(device)
    elif turn:
        turns = torch.randint(4, (count,), generator=generator).to(device)
    return Showing(
        mask=mask, positions=positions.to(device), turns=turns, scales=scales, angles=angles
    )


def turned(patches: Tensor, turns: Tensor) -> Tensor:
    """Patch i (of N×3×s×s) turned ``turns[i]`` times by 90° counter-clockwise."""
    result = patches.clone()
    for quarter in (1, 2, 3):
        rows = (turns % 4 == quarter).nonzero()[:, 0]
        result[rows] = torch.rot90(patches[rows], quarter, (2, 3))
    return result
