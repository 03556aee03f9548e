"""A-QAPA's two pools of patches, improved with gradients that the training step has anyway.

:class:`UniversalPool` holds patches shared by all images, a few for each bit-width and size: each
is improved only inside the quantized model of its own bit-width, and shown to the network at every
bit-width.  :class:`PersonalPool` holds one small uint8 patch for each training image (192 bytes at
8×8): one signed step at each visit makes, over the epochs, a many-step per-image attack for the
price of none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.patching import (
    paste,
    patch_gradient,
    random_positions,
    square_mask,
    step_along_sign,
)

SUCCESS_MEMORY = 0.9
"""Weight of the past in the running success rate of a universal patch."""

SELDOM = 0.1
"""Share of evenly spread choice mixed into the choice by success, so none is forgotten."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Which rows of a batch a pool patched in the current step, and with what."""

    rows: Tensor
    owners: Tensor
    positions: Tensor
    mask: Tensor
    learns: Tensor


class UniversalPool:
    """``per_bit_width`` universal square patches per bit-width and size, placed at random.

    Patches are float32 in [0, 255], K×3×s×s per size s, where patch k has its home at bit-width
    ``bit_widths[k // per_bit_width]``.
    """

    def __init__(
        self,
        *,
        bit_widths: tuple[int, ...],
        sizes_px: tuple[int, ...],
        per_bit_width: int,
        step_size: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.sizes_px = sizes_px
        self.step_size = step_size
        count = len(bit_widths) * per_bit_width
        self.home = torch.tensor(bit_widths, device=device).repeat_interleave(per_bit_width)
        self.patches = {
            s: torch.rand(count, 3, s, s, generator=generator).mul_(255.0).to(device)
            for s in sizes_px
        }
        self.success = {s: torch.full((count,), 0.5, device=device) for s in sizes_px}
        self._visit: tuple[int, Visit] | None = None

    def patch(self, pixels: Tensor, rows: Tensor, bits: int, generator: torch.Generator) -> Tensor:
        """``pixels`` with the given ``rows`` patched: half of them by patches at home at ``bits``
        (these will learn), the others by patches of any bit-width."""
        size = self.sizes_px[int(torch.randint(len(self.sizes_px), (), generator=generator))]
        weights = self.success[size].cpu() + SELDOM
        at_home = torch.where(self.home.cpu() == bits, weights, torch.zeros_like(weights))
        count = rows.numel()
        first = torch.multinomial(at_home, (count + 1) // 2, True, generator=generator)
        rest = torch.multinomial(weights, count // 2, True, generator=generator)
        owners = torch.cat([first, rest]).to(rows.device)
        height, width = pixels.shape[2:]
        positions = random_positions(count, (height, width), (size, size), generator)
        mask = square_mask(size)
        learns = self.home[owners] == bits
        visit = Visit(
            rows=rows, owners=owners, positions=positions.to(rows.device), mask=mask, learns=learns
        )
        self._visit = (size, visit)
        patched = pixels.clone()
        patched[rows] = paste(
            pixels[rows], self.patches[size], mask, visit.positions, owners=owners
        )
        return patched

    def learn(self, gradient: Tensor, wrong: Tensor) -> None:
        """One signed step of every patch that was shown at home; ``gradient`` is that of the
        training loss at the pixels, ``wrong`` (bool, N) which images were misclassified."""
        if self._visit is None:
            return
        size, visit = self._visit
        self._visit = None
        patches = self.patches[size]
        towards = patch_gradient(
            gradient[visit.rows][visit.learns],
            visit.mask,
            visit.positions[visit.learns],
            patches=patches.shape[0],
            owners=visit.owners[visit.learns],
        )
        self.patches[size] = step_along_sign(patches, towards, self.step_size)
        shown = torch.zeros_like(self.success[size])
        shown.index_add_(0, visit.owners, torch.ones_like(visit.owners, dtype=shown.dtype))
        won = torch.zeros_like(shown)
        won.index_add_(0, visit.owners, wrong[visit.rows].to(won.dtype))
        rate = torch.where(shown > 0, won / shown.clamp_min(1.0), self.success[size])
        self.success[size].mul_(SUCCESS_MEMORY).add_(rate, alpha=1.0 - SUCCESS_MEMORY)

    def state(self) -> dict[str, Tensor]:
        """Patches and success rates by size."""
        tensors = {f"patches_{s}": p for s, p in self.patches.items()}
        return tensors | {f"success_{s}": p for s, p in self.success.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        for s in self.sizes_px:
            self.patches[s] = tensors[f"patches_{s}"].to(self.patches[s].device)
            self.success[s] = tensors[f"success_{s}"].to(self.success[s].device)


class PersonalPool:
    """One uint8 patch (3×s×s) and one place per training image, kept across epochs.

    The place of an image's patch is drawn anew with probability ``move`` at a visit; half of the
    visits show only the inner part of the patch (two pixels fewer on a side), so that two sizes
    are trained against with the bytes of one.
    """

    def __init__(
        self,
        *,
        images: int,
        image_size: tuple[int, int],
        size_px: int,
        step_size: float,
        move: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.size_px, self.step_size, self.move = size_px, step_size, move
        self.image_size = image_size
        shape = (images, 3, size_px, size_px)
        noise = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        self.patches = noise.to(device)
        self.places = random_positions(images, image_size, (size_px, size_px), generator).to(
            device=device, dtype=torch.int32
        )
        self._visit: tuple[Tensor, Visit] | None = None

    def patch(
        self, pixels: Tensor, rows: Tensor, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """``pixels`` with the given ``rows`` patched by the patches of images ``indices``."""
        count = rows.numel()
        box = (self.size_px, self.size_px)
        fresh = random_positions(count, self.image_size, box, generator)
        moves = torch.rand(count, generator=generator) < self.move
        images = indices[rows]
        places = torch.where(
            moves[:, None].to(rows.device), fresh.to(rows.device), self.places[images]
        )
        self.places[images] = places.to(self.places.dtype)
        mask = square_mask(self.size_px)
        if self.size_px > 4 and bool(torch.rand((), generator=generator) < 0.5):
            mask[0, :] = mask[-1, :] = mask[:, 0] = mask[:, -1] = False
        owners = torch.arange(count, device=rows.device)
        visit = Visit(rows=rows, owners=owners, positions=places, mask=mask, learns=owners >= 0)
        self._visit = (images, visit)
        patched = pixels.clone()
        patched[rows] = paste(pixels[rows], self.patches[images].float(), mask, places)
        return patched

    def learn(self, gradient: Tensor) -> None:
        """One signed step of each patch of the last visit."""
        if self._visit is None:
            return
        images, visit = self._visit
        self._visit = None
        towards = patch_gradient(gradient[visit.rows], visit.mask, visit.positions)
        stepped = step_along_sign(self.patches[images].float(), towards, self.step_size)
        self.patches[images] = stepped.round_().to(torch.uint8)

    def state(self) -> dict[str, Tensor]:
        """Patches (uint8) and places (int32)."""
        return {"patches": self.patches, "places": self.places}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        self.patches = tensors["patches"].to(self.patches.device)
        self.places = tensors["places"].to(self.places.device)
