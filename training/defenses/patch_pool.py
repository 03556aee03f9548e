"""A-QAPA's two pools of patches, improved with gradients that the training step has anyway.

:class:`UniversalPool` holds patches shared by all images, a few for each bit-width and size: each
is improved only inside the quantized model of its own bit-width, and shown to the network at every
bit-width.  :class:`PersonalPool` holds one small uint8 patch for each training image (192 bytes at
8×8): one signed step at each visit makes, over the epochs, a many-step per-image attack for the
price of none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.patching import (
    circle_mask,
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
    turns: Tensor


SHAPES: Mapping[str, Callable[[int], Tensor]] = {"square": square_mask, "circle": circle_mask}
"""Masks by the name of the shape."""

Improve = Callable[[Tensor, Tensor], Tensor]
"""(pasted pixels n×3×H×W, target labels n) to the gradient, at those pixels, of the loss towards
the targets."""


class UniversalPool:
    """``per_bit_width`` universal patches per bit-width, shape and size, placed at random.

    Patches are float32 in [0, 255], K×3×s×s for each (shape, size), where patch k has its home at
    bit-width ``bit_widths[k // per_bit_width]``.  ``targets`` (int64, K) holds the class that a
    patch is made for, -1 for an untargeted one: the first ``targeted`` of each home have one.

    With ``turn``, each showing of a patch is turned by a random multiple of 90° (exact on the
    pixel grid).  With ``restart_after`` above 0, a patch that was shown that many times in a row
    while its running success was below ``restart_below`` starts again from noise.
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
        shapes: tuple[str, ...] = ("square",),
        targeted: int = 0,
        classes: int = 0,
        turn: bool = False,
        restart_after: int = 0,
        restart_below: float = 0.1,
    ) -> None:
        self.step_size, self.turn = step_size, turn
        self.restart_after, self.restart_below = restart_after, restart_below
        self.kinds = [(shape, size) for shape in shapes for size in sizes_px]
        count = len(bit_widths) * per_bit_width
        self.home = torch.tensor(bit_widths, device=device).repeat_interleave(per_bit_width)
        self.patches = {
            kind: torch.rand(count, 3, kind[1], kind[1], generator=generator).mul_(255.0).to(device)
            for kind in self.kinds
        }
        self.success = {kind: torch.full((count,), 0.5, device=device) for kind in self.kinds}
        self.stale = {
            kind: torch.zeros(count, dtype=torch.int64, device=device) for kind in self.kinds
        }
        self.targets = torch.full((count,), -1, device=device)
        if targeted:
            aimed = torch.arange(count) % per_bit_width < targeted
            drawn = torch.randint(classes, (count,), generator=generator)
            self.targets = torch.where(aimed, drawn, -1).to(device)
        self._visit: tuple[tuple[str, int], Visit] | None = None

    def patch(
        self,
        pixels: Tensor,
        rows: Tensor,
        bits: int,
        generator: torch.Generator,
        *,
        labels: Tensor | None = None,
        improve: Improve | None = None,
    ) -> Tensor:
        """``pixels`` with the given ``rows`` patched: half of them by patches at home at ``bits``
        (these will learn), the others by patches of any bit-width.

        Targeted patches at home take their step here, with the gradient that ``improve`` gives for
        their images (those whose entry in ``labels``, int64 (N,), is not the target).
        """
        kind = self.kinds[int(torch.randint(len(self.kinds), (), generator=generator))]
        size = kind[1]
        weights = self.success[kind].cpu() + SELDOM
        at_home = torch.where(self.home.cpu() == bits, weights, torch.zeros_like(weights))
        count = rows.numel()
        first = torch.multinomial(at_home, (count + 1) // 2, True, generator=generator)
        rest = torch.multinomial(weights, count // 2, True, generator=generator)
        owners = torch.cat([first, rest]).to(rows.device)
        height, width = pixels.shape[2:]
        positions = random_positions(count, (height, width), (size, size), generator)
        turns = torch.zeros(count, dtype=torch.int64)
        if self.turn:
            turns = torch.randint(4, (count,), generator=generator)
        visit = Visit(
            rows=rows,
            owners=owners,
            positions=positions.to(rows.device),
            mask=SHAPES[kind[0]](size),
            learns=(self.home[owners] == bits) & (self.targets[owners] < 0),
            turns=turns.to(rows.device),
        )
        if improve is not None and labels is not None:
            targets = self.targets[owners]
            aimed = (self.home[owners] == bits) & (targets >= 0) & (targets != labels[rows])
            if bool(aimed.any()):
                pasted = self._pasted(kind, visit, pixels[rows])
                gradient = improve(pasted[aimed], targets[aimed])
                self._step(kind, visit, gradient, aimed, -self.step_size)
        self._visit = (kind, visit)
        patched = pixels.clone()
        patched[rows] = self._pasted(kind, visit, pixels[rows])
        return patched

    def learn(
        self, gradient: Tensor, predicted: Tensor, labels: Tensor, generator: torch.Generator
    ) -> None:
        """One signed step of every untargeted patch that was shown at home, and the successes.

        ``gradient`` is that of the training loss at the pixels, ``predicted`` and ``labels`` are
        int64 (N,); ``generator`` draws the noise that stale patches start again from.
        """
        if self._visit is None:
            return
        kind, visit = self._visit
        self._visit = None
        self._step(kind, visit, gradient[visit.rows][visit.learns], visit.learns, self.step_size)
        targets = self.targets[visit.owners]
        predicted, labels = predicted[visit.rows], labels[visit.rows]
        won = torch.where(targets < 0, predicted != labels, predicted == targets)
        counts = (targets < 0) | (labels != targets)
        success = self.success[kind]
        shown = torch.zeros_like(success).index_add_(0, visit.owners, counts.to(success.dtype))
        wins = torch.zeros_like(success)
        wins.index_add_(0, visit.owners, (won & counts).to(success.dtype))
        rate = torch.where(shown > 0, wins / shown.clamp_min(1.0), success)
        success.mul_(SUCCESS_MEMORY).add_(rate, alpha=1.0 - SUCCESS_MEMORY)
        if self.restart_after:
            self._restart(kind, shown > 0, generator)

    def _pasted(self, kind: tuple[str, int], visit: Visit, pixels: Tensor) -> Tensor:
        patches = self.patches[kind]
        if not self.turn:
            return paste(pixels, patches, visit.mask, visit.positions, owners=visit.owners)
        own = turned(patches[visit.owners], visit.turns)
        return paste(pixels, own, visit.mask, visit.positions)

    def _step(
        self,
        kind: tuple[str, int],
        visit: Visit,
        gradient: Tensor,
        chosen: Tensor,
        step_size: float,
    ) -> None:
        """A signed step with the ``gradient`` (n×3×H×W) at the ``chosen`` (bool) of the rows."""
        patches = self.patches[kind]
        own = patch_gradient(gradient, visit.mask, visit.positions[chosen])
        if self.turn:
            own = turned(own, -visit.turns[chosen])
        towards = torch.zeros_like(patches).index_add_(0, visit.owners[chosen], own)
        self.patches[kind] = step_along_sign(patches, towards, step_size)

    def _restart(self, kind: tuple[str, int], shown: Tensor, generator: torch.Generator) -> None:
        success, stale, patches = self.success[kind], self.stale[kind], self.patches[kind]
        failing = success < self.restart_below
        self.stale[kind] = torch.where(failing, stale + shown.to(stale.dtype), 0)
        again = self.stale[kind] >= self.restart_after
        if bool(again.any()):
            noise = torch.rand(patches.shape, generator=generator).mul_(255.0).to(patches.device)
            self.patches[kind] = torch.where(again[:, None, None, None], noise, patches)
            success.masked_fill_(again, 0.5)
            self.stale[kind].masked_fill_(again, 0)

    def state(self) -> dict[str, Tensor]:
        """Patches, success rates and stale counts by shape and size; the targets."""
        tensors = {"targets": self.targets}
        for shape, size in self.kinds:
            kind = (shape, size)
            tensors[f"patches_{shape}_{size}"] = self.patches[kind]
            tensors[f"success_{shape}_{size}"] = self.success[kind]
            tensors[f"stale_{shape}_{size}"] = self.stale[kind]
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        device = self.targets.device
        self.targets = tensors["targets"].to(device)
        for shape, size in self.kinds:
            kind = (shape, size)
            self.patches[kind] = tensors[f"patches_{shape}_{size}"].to(device)
            self.success[kind] = tensors[f"success_{shape}_{size}"].to(device)
            self.stale[kind] = tensors[f"stale_{shape}_{size}"].to(device)


def turned(patches: Tensor, turns: Tensor) -> Tensor:
    """Patch i (of N×3×s×s) turned ``turns[i]`` times by 90° counter-clockwise."""
    result = patches.clone()
    for quarter in (1, 2, 3):
        rows = (turns % 4 == quarter).nonzero()[:, 0]
        result[rows] = torch.rot90(patches[rows], quarter, (2, 3))
    return result


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
        visit = Visit(
            rows=rows,
            owners=owners,
            positions=places,
            mask=mask,
            learns=owners >= 0,
            turns=torch.zeros_like(owners),
        )
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
