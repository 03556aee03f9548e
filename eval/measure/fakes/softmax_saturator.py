"""Probabilities of a softmax so steep that they are 0 or 1 in float32."""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor

from eval.measure.fakes.wrapper import Wrapper


class SoftmaxSaturator(Wrapper):
    """The right classes, as probabilities at a temperature of 1/1000: their gradient vanishes
    (the flaw of defensive distillation, Carlini and Wagner 2017)."""

    name: ClassVar[str] = "softmax-saturator"

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities in the place of logits."""
        return (1000.0 * cast(Tensor, self.network(pixels))).softmax(dim=1)
