"""A-QAPA's universal patches, improved with gradients that the training step has anyway.

There are a few patches for each bit-width, shape, size and law of placement, shared by all images.
Each is improved only inside the quantized model of its own bit-width, and shown to the network at
every bit-width. :mod:`training.defenses.personal_pool` holds the patches of single images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.defenses.showing import Law, Pose, Showing, drawn
from training.patching import circle_mask, square_mask, step_along_sign

SUCCESS_MEMORY = 0.9
"""Weight of the past in the running success rate of a universal patch."""

SELDOM = 0.1
"""Added to the success of each patch, by which patches are drawn, so that none is forgotten."""


Shape = Literal["square", "circle"]
SHAPES: Mapping[Shape, Callable[[int], Tensor]] = {"square": square_mask, "circle": circle_mask}
"""Masks by the name of the shape."""

Kind = tuple[Shape, int, Law]
"""Shape, size in pixels, law of placement."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """The rows of a batch that the pool patched in the current step, the patches that they show,
    the kind of these, and how they are shown; ``learns`` marks the rows whose patch takes a step by
    the training loss."""

    kind: Kind
    rows: Tensor
    owners: Tensor
    showing: Showing
    learns: Tensor


Improve = Callable[[Tensor, Tensor], Tensor]
"""(pasted pixels n×3×H×W, target labels n) to the gradient, at those pixels, of the loss towards
the targets."""


class UniversalPool:
    """``per_bit_width`` universal patches per bit-width, shape, size and law of placement.

    Patches are float32 in [0, 255], K×3×s×s for each (shape, size, law), where patch k has its home
    at bit-width ``bit_widths[k // per_bit_width]``.  ``targets`` (int64, K) holds the class that a
    patch is made for, -1 for an untargeted one: the first ``targeted`` of each home have one.

    With ``turn``, each upright showing is turned by a random multiple of 90°. With
    ``restart_after`` above 0, a patch that was shown that many times in a row while its running
    success was below ``restart_below`` starts again from noise.
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
        shapes: tuple[Shape, ...] = ("square",),
        targeted: int = 0,
        classes: int = 0,
        placements: tuple[Law, ...] = ("random",),
        pose: Pose | None = None,
        turn: bool = False,
        restart_after: int = 0,
        restart_below: float = 0.1,
        channels: int = 3,
    ) -> None:
        self.step_size, self.turn, self.pose = step_size, turn, pose
        self.restart_after, self.restart_below = restart_after, restart_below
        self.kinds: list[Kind] = [
            (shape, size, law) for law in placements for shape in shapes for size in sizes_px
        ]
        count = len(bit_widths) * per_bit_width
        self.home = torch.tensor(bit_widths, device=device).repeat_interleave(per_bit_width)
        self.patches = {
            kind: torch.rand(count, channels, kind[1], kind[1], generator=generator)
            .mul_(255.0)
            .to(device)
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
        self._visit: Visit | None = None

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
        """``pixels`` with the given ``rows`` patched: half of them with patches whose home is
        ``bits`` (these will learn), the others with patches of any bit-width.

        Targeted patches at home take their step here, with the gradient that ``improve`` returns
        for their images (those whose entry in ``labels``, int64 (N,), is not the target).
        """
        kind = self.kinds[int(torch.randint(len(self.kinds), (), generator=generator))]
        shape, size, law = kind
        weights = self.success[kind].cpu() + SELDOM
        at_home = torch.where(self.home.cpu() == bits, weights, torch.zeros_like(weights))
        count = rows.numel()
        first = torch.multinomial(at_home, (count + 1) // 2, True, generator=generator)
        rest = torch.multinomial(weights, max(1, count // 2), True, generator=generator)
        owners = torch.cat([first, rest[: count // 2]]).to(rows.device)
        image_size, mask = (pixels.shape[2], pixels.shape[3]), SHAPES[shape](size)
        showing = drawn(
            law, count, image_size, mask, generator, rows.device, turn=self.turn, pose=self.pose
        )
        home, targets = self.home[owners] == bits, self.targets[owners]
        visit = Visit(
            kind=kind, rows=rows, owners=owners, showing=showing, learns=home & (targets < 0)
        )
        if improve is not None and labels is not None:
            aimed = home & (targets >= 0) & (targets != labels[rows])
            if bool(aimed.any()):
                pasted = self._pasted(visit, pixels[rows])
                gradient = improve(pasted[aimed], targets[aimed])
                self._step(visit, gradient, aimed, -self.step_size)
        self._visit = visit
        patched = pixels.clone()
        patched[rows] = self._pasted(visit, pixels[rows])
        return patched

    def learn(
        self, gradient: Tensor, predicted: Tensor, labels: Tensor, generator: torch.Generator
    ) -> None:
        """Take one signed step of every untargeted patch that was shown at home, and update the
        success rates.

        ``gradient`` is that of the training loss at the pixels, ``predicted`` and ``labels`` are
        int64 (N,); ``generator`` draws the noise that stale patches restart from.
        """
        if self._visit is None:
            return
        visit, self._visit = self._visit, None
        kind = visit.kind
        self._step(visit, gradient[visit.rows][visit.learns], visit.learns, self.step_size)
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

    def _pasted(self, visit: Visit, pixels: Tensor) -> Tensor:
        return visit.showing.paste(pixels, self.patches[visit.kind][visit.owners])

    def _step(self, visit: Visit, gradient: Tensor, chosen: Tensor, step_size: float) -> None:
        """A signed step with the ``gradient`` (n×3×H×W) at the ``chosen`` (bool) of the rows."""
        patches = self.patches[visit.kind]
        own = visit.showing.of(chosen).gradient(gradient)
        towards = torch.zeros_like(patches).index_add_(0, visit.owners[chosen], own)
        self.patches[visit.kind] = step_along_sign(patches, towards, step_size)

    def _restart(self, kind: Kind, shown: Tensor, generator: torch.Generator) -> None:
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
        """Patches, success rates and stale counts by shape, size and law; homes and targets."""
        tensors = {"home": self.home, "targets": self.targets}
        for kind in self.kinds:
            of = "_".join(map(str, kind))
            tensors[f"patches_{of}"] = self.patches[kind]
            tensors[f"success_{of}"] = self.success[kind]
            tensors[f"stale_{of}"] = self.stale[kind]
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`state` returned."""
        device = self.targets.device
        self.targets = tensors["targets"].to(device)
        for kind in self.kinds:
            of = "_".join(map(str, kind))
            self.patches[kind] = tensors[f"patches_{of}"].to(device)
            self.success[kind] = tensors[f"success_{of}"].to(device)
            self.stale[kind] = tensors[f"stale_{of}"].to(device)

    def files(self) -> dict[str, dict[str, NDArray[np.generic]]]:
        """The patches as arrays of npz files by name, in the form that supplied patches have
        (:mod:`eval.attacks.supplied.reading`): one file for each kind; targeted patches have their
        own."""
        aimed = (self.targets >= 0).cpu()
        found: dict[str, dict[str, NDArray[np.generic]]] = {}
        for kind in self.kinds:
            shape, size, law = kind
            patches = self.patches[kind].round().to(torch.uint8).cpu()
            mask = SHAPES[shape](size).numpy()
            name = f"universal-{shape}-{size}px-{law}"
            if not bool(aimed.all()):
                found[name] = {"patches": patches[~aimed].numpy(), "mask": mask}
            if bool(aimed.any()):
                found[f"{name}-targeted"] = {
                    "patches": patches[aimed].numpy(),
                    "mask": mask,
                    "targets": self.targets.cpu()[aimed].numpy(),
                }
        return found
