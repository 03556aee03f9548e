"""Noise on the logits, drawn anew at every answer."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor

from eval.attacks.predictions import SwitchableNetwork
from eval.measure.fakes.wrapper import Wrapper


class LogitNoise(Wrapper):
    """Gaussian noise of ``strength`` logits: stochastic gradients and answers (Athalye et al.
    2018), under which a success that was seen once may not be seen again."""

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
