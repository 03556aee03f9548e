"""The right answers, and gradients whose signs are turned by a fixed hash of the image."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from eval.measure.fakes.wrapper import Wrapper


class _Scrambled(torch.autograd.Function):
    """Identity whose gradient gets signs that depend on the pixels, the same at every call."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        ctx.save_for_backward(pixels)
        return pixels.view_as(pixels)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (pixels,) = ctx.saved_tensors
        place = torch.arange(pixels[0].numel(), device=pixels.device).view_as(pixels[0])
        # A hash of value and place: deterministic, and uncorrelated between neighbours.
        hashed = (pixels.round().long() * 2654435761 + place * 40503) % 1000003
        return gradient * torch.where((hashed * 7919) % 1000003 % 2 == 0, 1.0, -1.0)


def _scrambled(pixels: Tensor) -> Tensor:
    return cast(Tensor, cast(Any, _Scrambled).apply(pixels))


class GradientScrambler(Wrapper):
    """Inconsistent gradients at no change of the answers: what a defense that perturbs gradients
    would do to an attacker if it were left on at inference. Nothing is random, so averaging does
    not help; only attacks that need no gradient, or another network's, show it."""

    name: ClassVar[str] = "gradient-scrambler"

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits as the network gives them."""
        return cast(Tensor, self.network(_scrambled(pixels)))
