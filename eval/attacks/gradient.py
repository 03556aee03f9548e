"""Ascent by signed steps with momentum, the engine of the white-box attacks.

Per step, with patch δ, images x, places p and bit-widths B:

    g = ∂/∂δ Σ_{b∈B} Σ_i min(loss(f_b(T(A(x_i, δ, p_i))), y_i), confidence)
    v ← momentum · v + g / mean|g|        (the mean over each patch)
    δ ← clamp(δ + step · sign(v), 0, 255)

where A pastes the patch (GAP also scales and turns it) and T moves the image by a few pixels that
are drawn for each step (``shift_px``) and hides a square of it (``mask_px``). The step itself is
``training.patching.step_along_sign``, the same that hardens a network in training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deploy.core.double_masking import GREY
from deploy.core.errors import InputError
from eval.attacks.losses import attack_loss
from eval.attacks.problem import Problem
from eval.attacks.settings import GradientSettings
from training.batches import squares
from training.patching import falling_step_size, step_along_sign

Applied = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(pixels N×3×H×W, patch P×3×h×w, positions N×2) → pasted N×3×H×W, differentiable in the patch."""


def sign_ascent(
    problem: Problem, settings: GradientSettings, apply: Applied, stepped: Callable[[], None]
) -> Tensor:
    """The patch after ``settings.steps`` steps: float P×3×h×w.

    A universal patch sees ``batch_size`` randomly drawn images at freshly drawn places in each
    step; a per-image patch sees its own image at its own place. ``stepped`` is called after each
    step (progress).
    """
    ascent = Ascent(problem, settings)
    patch = ascent.begin(stepped)
    while ascent.done < settings.steps:
        pixels, labels, positions = _batch(problem, settings)
        gradient = patch_gradient(problem, settings, apply, patch, pixels, labels, positions)
        patch = ascent.step(patch, gradient)
        ascent.keep(patch)
        stepped()
    return patch


class Ascent:
    """The velocity of the patches, the decreasing size of their steps, and the resume state."""

    def __init__(self, problem: Problem, settings: GradientSettings) -> None:
        height, width = problem.images.shape[2:]
        for name in ("shift_px", "mask_px"):
            if getattr(settings, name) >= min(height, width):
                raise InputError(
                    f"{name} is {getattr(settings, name)}, which leaves nothing of images of "
                    f"{height}×{width} px to follow; lower it"
                )
        self._problem = problem
        self._settings = settings
        self._velocity = torch.zeros_like(problem.start)
        self.done = 0
        """Steps taken."""

    def begin(self, stepped: Callable[[], None], more: dict[str, Tensor] | None = None) -> Tensor:
        """The initial patch: the start, or the state of an interrupted ascent.

        Args:
            stepped: called for each step that is already done.
            more: further tensors that the attack stores; stored ones replace them here.
        """
        kept = {} if self._problem.found is None else self._problem.found.unfinished
        if not kept:
            return self._problem.start
        start = self._problem.start
        self._velocity = torch.tensor(kept["velocity"]).to(start)  # a copy: steps change it
        self.done = int(kept["done"])
        self._problem.generator.set_state(torch.from_numpy(kept["generator"]))
        more = {} if more is None else more
        for name, tensor in more.items():
            more[name] = torch.from_numpy(kept[name]).to(tensor)
        for _ in range(self.done):
            stepped()
        return torch.from_numpy(kept["patch"]).to(start)

    def step(self, patch: Tensor, gradient: Tensor) -> Tensor:
        """The patch, P×3×h×w, after one more step along its gradient of the same shape."""
        settings = self._settings
        size = falling_step_size(settings.step_size, self.done, settings.steps)
        self.done += 1
        return step_along_sign(
            patch, gradient, size, velocity=self._velocity, momentum=settings.momentum
        )

    def keep(self, patch: Tensor, **more: Tensor) -> None:
        """Store the state of the ascent at intervals, so that it can be resumed after this step."""
        if self._problem.found is None:
            return
        tensors = {"patch": patch, "velocity": self._velocity, **more}
        self._problem.found.keep(
            lambda: {
                **{name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()},
                "done": np.array(self.done, dtype=np.int64),
                "generator": self._problem.generator.get_state().numpy(),
            }
        )


def _batch(problem: Problem, settings: GradientSettings) -> tuple[Tensor, Tensor, Tensor]:
    if not problem.universal:
        return as_pixels(problem.images), problem.labels, problem.positions
    available = problem.images.shape[0]
    count = min(settings.batch_size, available)
    chosen = torch.randperm(available, generator=problem.generator)[:count]
    chosen = chosen.to(problem.images.device)
    pixels = as_pixels(problem.images[chosen])
    return pixels, problem.labels[chosen], problem.fresh_positions(count)


def as_pixels(images: Tensor) -> Tensor:
    """Float pixels of uint8 images, channels last, where convolutions on a CPU are faster."""
    return images.float().contiguous(memory_format=torch.channels_last)


def patch_gradient(
    problem: Problem,
    settings: GradientSettings,
    apply: Applied,
    patch: Tensor,
    pixels: Tensor,
    labels: Tensor,
    positions: Tensor,
) -> Tensor:
    """The gradient of the summed losses at the patch: float P×3×h×w."""
    variable = patch.detach().requires_grad_()
    pasted = _shifted(apply(pixels, variable, positions), settings.shift_px, problem.generator)
    pasted = _masked(pasted, settings.mask_px, problem.generator)
    seen = pasted.detach().requires_grad_()
    total = torch.zeros_like(seen)
    for bits in settings.bit_widths:
        with problem.network.at(bits):
            loss = attack_loss(settings.loss, problem.network(seen), labels, settings.target)
            if settings.confidence is not None:
                loss = loss.clamp(max=settings.confidence)
            total += torch.autograd.grad(loss.sum(), seen)[0]
    return torch.autograd.grad(pasted, variable, total)[0]


def _shifted(pixels: Tensor, shift_px: int, generator: torch.Generator) -> Tensor:
    """All images moved by one random offset of up to ``shift_px``, mirrored at the border."""
    if shift_px == 0:
        return pixels
    height, width = pixels.shape[2:]
    top, left = torch.randint(2 * shift_px + 1, (2,), generator=generator).tolist()
    padded = functional.pad(pixels, [shift_px] * 4, mode="reflect")
    return padded[:, :, top : top + height, left : left + width]


def _masked(pixels: Tensor, mask_px: int, generator: torch.Generator) -> Tensor:
    """The images, each with one grey square of that side at its own place."""
    if mask_px == 0:
        return pixels
    count = len(pixels)
    places = torch.rand((2, count), generator=generator)
    hidden = squares(torch.full((count,), mask_px), places, (pixels.shape[2], pixels.shape[3]))
    return pixels.masked_fill(hidden[:, None].to(pixels.device), float(GREY))
