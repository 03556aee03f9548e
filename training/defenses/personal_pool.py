"""A-QAPA's per-image patches: one small uint8 patch for each training image, kept across epochs.

At each visit a patch takes one signed step with the gradient that the training step computes
anyway. Before that it takes the configured number of further steps, each of which is a pass over
the images that show a patch. A patch of 8×8 takes 192 bytes per image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.patching import paste, patch_gradient, random_positions, square_mask, step_along_sign


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """The rows of the batch that the pool patched in the current step, the images whose patches
    they show, the places and the mask."""

    rows: Tensor
    images: Tensor
    positions: Tensor
    mask: Tensor


class PersonalPool:
    """One uint8 patch (3×s×s) and one place per training image, kept across epochs.

    The place of an image's patch is drawn anew with probability ``move`` at a visit, and with
    probability ``central`` among the middle third of the places instead of all.  Half of the visits
    show only the inner part of the patch (two pixels fewer on a side), so that training covers two
    sizes with the memory of one.
    """

    def __init__(
        self,
        *,
        images: int,
        image_size: tuple[int, int],
        size_px: int,
        step_size: float,
        move: float,
        central: float = 0.0,
        generator: torch.Generator,
        device: torch.device,
        channels: int = 3,
    ) -> None:
        self.size_px, self.step_size, self.move = size_px, step_size, move
        self.image_size, self.central = image_size, central
        shape = (images, channels, size_px, size_px)
        noise = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        self.patches = noise.to(device)
        self.places = self._drawn(images, generator).to(device=device, dtype=torch.int32)
        self._visit: _Visit | None = None

    def patch(
        self,
        pixels: Tensor,
        rows: Tensor,
        indices: Tensor,
        generator: torch.Generator,
        *,
        steps: int = 0,
        improve: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """``pixels``, float N×3×H×W of 0…255, with the given ``rows``, int64 (n,), patched with the
        patches of the images ``indices``, int64 (N,) within the training set.

        First the patches take ``steps`` signed steps, each along the gradient that ``improve``
        gives for the patched rows, n×3×H×W.
        """
        count = rows.numel()
        fresh = self._drawn(count, generator)
        moves = torch.rand(count, generator=generator) < self.move
        images = indices[rows]
        places = torch.where(
            moves[:, None].to(rows.device), fresh.to(rows.device), self.places[images]
        )
        self.places[images] = places.to(self.places.dtype)
        mask = square_mask(self.size_px)
        if self.size_px > 4 and bool(torch.rand((), generator=generator) < 0.5):
            mask[0, :] = mask[-1, :] = mask[:, 0] = mask[:, -1] = False
        visit = _Visit(rows=rows, images=images, positions=places, mask=mask)
        if improve is not None:
            for _ in range(steps):
                self._step(visit, improve(self._pasted(visit, pixels[rows])))
        self._visit = visit
        patched = pixels.clone()
        patched[rows] = self._pasted(visit, pixels[rows])
        return patched

    def learn(self, gradient: Tensor) -> None:
        """One signed step of each patch of the last visit; ``gradient``: of the loss at the batch's
        pixels, float N×3×H×W."""
        if self._visit is None:
            return
        visit, self._visit = self._visit, None
        self._step(visit, gradient[visit.rows])

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """Places for new patches, int64 count×2 on the CPU."""
        box = (self.size_px, self.size_px)
        places = random_positions(count, self.image_size, box, generator)
        if self.central > 0.0:
            central = torch.rand(count, generator=generator) < self.central
            middle = random_positions(count, self.image_size, box, generator, central=True)
            places = torch.where(central[:, None], middle, places)
        return places

    def _pasted(self, visit: _Visit, pixels: Tensor) -> Tensor:
        return paste(pixels, self.patches[visit.images].float(), visit.mask, visit.positions)

    def _step(self, visit: _Visit, gradient: Tensor) -> None:
        towards = patch_gradient(gradient, visit.mask, visit.positions)
        stepped = step_along_sign(self.patches[visit.images].float(), towards, self.step_size)
        self.patches[visit.images] = stepped.round_().to(torch.uint8)

    def state(self) -> dict[str, Tensor]:
        """Patches (uint8) and places (int32)."""
        return {"patches": self.patches, "places": self.places}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`state` returned."""
        self.patches = tensors["patches"].to(self.patches.device)
        self.places = tensors["places"].to(self.places.device)
