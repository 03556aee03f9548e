"""Fake defenses: wrappers that lower the measured attack success, but not that of a real attacker.

They are deliberately planted around a network, to show that the checks detect them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from deploy.core.errors import InputError
from training.prediction import SwitchableNetwork


class Wrapper(nn.Module):
    """A network behind a fake defense; ``network`` is the real one.

    ``forward`` takes pixel values 0…255, float N×3×H×W, and returns float N×classes.
    """

    name: ClassVar[str]

    def __init__(self, network: SwitchableNetwork) -> None:
        super().__init__()
        self.network = cast(nn.Module, network)
        self.train(network.training)

    def at(self, bits: int) -> AbstractContextManager[Any]:
        """The real network at a bit-width, inside a ``with`` block."""
        return cast(SwitchableNetwork, self.network).at(bits)


class GradientKiller(Wrapper):
    """Unchanged answers and a gradient of zero, as with rounding without a straight-through
    estimator (shattered gradients, Athalye et al. 2018)."""

    name: ClassVar[str] = "gradient-killer"

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits as the network gives them for the rounded pixels."""
        # The product keeps the graph, as a real rounding does: its derivative exists and is zero.
        return cast(Tensor, self.network(pixels.round().detach() + 0.0 * pixels))


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


class GradientScrambler(Wrapper):
    """Inconsistent gradients with unchanged answers, as a defense that perturbs gradients would
    give if it stayed on at inference. Nothing is random, so averaging does not help; only attacks
    without gradients, or with another network's, reveal it."""

    name: ClassVar[str] = "gradient-scrambler"

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits as the network gives them."""
        return cast(Tensor, self.network(cast(Any, _Scrambled).apply(pixels)))


class LogitNoise(Wrapper):
    """Gaussian noise of ``strength`` logits: stochastic gradients and answers (Athalye et al.
    2018), with which a success may not be reproducible."""

    name: ClassVar[str] = "logit-noise"

    def __init__(self, network: SwitchableNetwork, strength: float = 1.5, seed: int = 0) -> None:
        super().__init__(network)
        self.strength = strength
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, pixels: Tensor) -> Tensor:
        """The network's logits plus the noise."""
        logits = cast(Tensor, self.network(pixels))
        noise = torch.randn(logits.shape, generator=self.generator).to(logits.device)
        return logits + self.strength * noise


class SoftmaxSaturator(Wrapper):
    """The right classes, as probabilities at a temperature of 1/1000: their gradient vanishes
    (the flaw of defensive distillation, Carlini and Wagner 2017)."""

    name: ClassVar[str] = "softmax-saturator"

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities in place of logits."""
        return (1000.0 * cast(Tensor, self.network(pixels))).softmax(dim=1)


FAKES: dict[str, type[Wrapper]] = {
    fake.name: fake for fake in (GradientKiller, GradientScrambler, LogitNoise, SoftmaxSaturator)
}
"""Every fake by its name."""


def planted(name: str, network: SwitchableNetwork) -> Wrapper:
    """The network behind the named fake.

    Raises:
        InputError: there is no such fake; the message lists the existing ones.
    """
    if name not in FAKES:
        raise InputError(f"Unknown fake defense {name!r}; known: {', '.join(sorted(FAKES))}.")
    return FAKES[name](network)
