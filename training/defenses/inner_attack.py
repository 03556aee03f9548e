"""Attacks that a defense runs inside a training step, on the network at its active bit-width.

:class:`PatchAttack` is the attack of Rao, Stutz and Schiele ("Adversarial training against
location-optimized adversarial patches", ECCV-W 2020): signed steps of a patch that starts from
uniform noise, at a place outside the image's centre, which may move while the loss rises.
:func:`perturb` is projected gradient descent (Madry et al., ICLR 2018) in the L∞ ball.

Both expect the network inside :func:`training.frozen.frozen_statistics`, and no gradient reaches
the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deploy.core.errors import InputError
from training.defenses.defense import Batch
from training.frozen import frozen_statistics, image_losses, pixel_gradient
from training.patching import paste, patch_gradient, square_mask, step_along_sign
from training.quantize import Network

CENTRE_SHARE = 10 / 32
"""Side of the centre box that patches keep out of, as a share of the image's shorter side."""

STRIDE_PX = 2
"""How far one step of the location optimization moves a patch."""

Moves = Literal["none", "random", "full"]
"""Location optimization: none; ``random``: one random direction is tried after each signed step;
``full``: all four are, and the best is taken."""

_DIRECTIONS = ((-STRIDE_PX, 0), (STRIDE_PX, 0), (0, -STRIDE_PX), (0, STRIDE_PX))


def outer_places(image_size: tuple[int, int], size_px: int) -> Tensor:
    """Every (top, left) whose ``size_px`` box lies in the image and does not touch its centre box.

    Returns int64, K×2.

    Raises:
        InputError: there is no such place.
    """
    height, width = image_size
    centre = round(min(image_size) * CENTRE_SHARE)
    top, left = (height - centre) // 2, (width - centre) // 2
    rows = torch.arange(max(0, height - size_px + 1))
    columns = torch.arange(max(0, width - size_px + 1))
    over = (rows + size_px <= top) | (rows >= top + centre)
    beside = (columns + size_px <= left) | (columns >= left + centre)
    places = (over[:, None] | beside[None, :]).nonzero()
    if len(places) == 0:
        raise InputError(
            f"a patch of {size_px} px does not fit into an image of {height}×{width} px outside "
            f"its centre box of {centre} px; make the patch smaller"
        )
    return places


@dataclass(frozen=True, kw_only=True)
class Patched:
    """What :meth:`PatchAttack.run` made: ``pixels`` float32 N×3×H×W with the patches on,
    ``patches`` float32 P×3×s×s (integers in [0, 255]), ``positions`` int64 N×2."""

    pixels: Tensor
    patches: Tensor
    positions: Tensor


class PatchAttack:
    """An untargeted patch attack of ``steps`` signed steps of ``step_size`` pixel values.

    ``moves`` is a :data:`Moves`.  The content of a patch moves with its place: position and
    pixels are stored separately and joined by pasting, so nothing of the patch is left behind.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        size_px: int,
        steps: int,
        step_size: float,
        moves: Moves = "none",
    ) -> None:
        self.size_px, self.steps, self.step_size, self.moves = size_px, steps, step_size, moves
        self.places = outer_places(image_size, size_px)
        self.allowed = torch.zeros(image_size, dtype=torch.bool)
        self.allowed[self.places[:, 0], self.places[:, 1]] = True
        self.mask = square_mask(size_px)

    def noise(self, count: int, generator: torch.Generator, channels: int = 3) -> Tensor:
        """``count`` patches of uniform noise, float32 count×C×s×s in [0, 255], on the CPU."""
        return torch.rand(count, channels, self.size_px, self.size_px, generator=generator) * 255.0

    def run(
        self,
        network: Network,
        pixels: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        *,
        start: Tensor | None = None,
    ) -> Patched:
        """Attack ``pixels`` (float32 N×3×H×W) with one patch each, or with the P = 1 of ``start``.

        ``generator`` (on the CPU) draws places, starts and directions.
        """
        device, count = pixels.device, pixels.shape[0]
        draw = torch.randint(len(self.places), (count,), generator=generator)
        positions = self.places[draw].to(device)
        patches = (self.noise(count, generator, pixels.shape[1]) if start is None else start).to(
            device
        )
        for _ in range(self.steps):
            pasted = paste(pixels, patches, self.mask, positions)
            gradient = pixel_gradient(network, pasted, labels)
            own = patch_gradient(gradient, self.mask, positions, patches=len(patches))
            patches = step_along_sign(patches, own, self.step_size)
            if self.moves != "none":
                positions = self._moved(network, pixels, labels, patches, positions, generator)
        # Training uses what an image can hold: whole pixel values.
        patches = patches.round()
        pasted = paste(pixels, patches, self.mask, positions)
        return Patched(pixels=pasted, patches=patches, positions=positions)

    def run_on_share(
        self,
        network: Network,
        batch: Batch,
        share: float,
        generator: torch.Generator,
        *,
        start: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`run`, on a randomly drawn ``share`` of the batch, inside frozen statistics.

        Returns the batch's pixels N×3×H×W, the patched rows, int64 (n,), and the patches.
        """
        count = batch.pixels.shape[0]
        chosen = torch.randperm(count, generator=generator)[: round(count * share)]
        rows = chosen.to(batch.pixels.device)
        with frozen_statistics(network):
            patched = self.run(
                network, batch.pixels[rows], batch.labels[rows], generator, start=start
            )
        pixels = batch.pixels.clone()
        pixels[rows] = patched.pixels
        return pixels, rows, patched.patches

    @torch.no_grad()
    def _moved(
        self,
        network: Network,
        pixels: Tensor,
        labels: Tensor,
        patches: Tensor,
        positions: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """The places after one trial: the neighbouring place where the loss is higher there."""
        count, device = len(positions), positions.device
        directions = torch.tensor(_DIRECTIONS)
        if self.moves == "random":
            drawn = torch.randint(len(directions), (count,), generator=generator)
            trials = [directions[drawn].to(device)]
        else:
            trials = [d.to(device).expand(count, 2) for d in directions]
        allowed = self.allowed.to(device)
        limits = torch.tensor(allowed.shape, device=device) - 1
        best = positions
        highest = image_losses(network, paste(pixels, patches, self.mask, positions), labels)
        for step in trials:
            there = positions + step
            inside = ((there >= 0) & (there <= limits)).all(dim=1)
            there = torch.where(inside[:, None], there, positions)
            there = torch.where(allowed[there[:, 0], there[:, 1]][:, None], there, positions)
            loss = image_losses(network, paste(pixels, patches, self.mask, there), labels)
            better = loss > highest
            best = torch.where(better[:, None], there, best)
            highest = torch.where(better, loss, highest)
        return best


def perturb(
    network: Network,
    pixels: Tensor,
    labels: Tensor,
    *,
    radius: float,
    steps: int,
    step_size: float,
    generator: torch.Generator,
) -> Tensor:
    """``pixels`` (float N×3×H×W, 0…255; labels int64 (N,)) moved by at most ``radius`` pixel values
    each so that the loss rises at the active bit-width: PGD of ``steps`` signed steps from a random
    start, drawn by ``generator`` on the CPU.  Whole pixel values in [0, 255].

    References: Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR
    2018).
    """
    noise = (2.0 * torch.rand(pixels.shape, generator=generator) - 1.0).to(pixels.device) * radius
    low, high = (pixels - radius).clamp_min(0.0), (pixels + radius).clamp_max(255.0)
    attacked = (pixels + noise).clamp(0.0, 255.0)
    for _ in range(steps):
        gradient = pixel_gradient(network, attacked, labels)
        attacked = step_along_sign(attacked, gradient, step_size).clamp(low, high)
    # Rounding towards the image keeps a fractional radius.
    return pixels + torch.trunc(attacked - pixels)
