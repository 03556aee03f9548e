"""The network that is attacked, with the randomness that it draws for each answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deploy.core.errors import InputError
from eval.attacks.predictions import evaluation_mode, logits
from training.prediction import SwitchableNetwork


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A network at one bit-width, or at one that is drawn for each image (random precision).

    Attributes:
        network: in evaluation mode while it is evaluated.
        bit_widths: one: the bit-width that is deployed. Several: each answer is computed at one of
            them, drawn uniformly, which the attacker cannot know beforehand (Fu et al., "Double-win
            quant", ICML 2021).
        noisy: whether the network itself is random in evaluation, see ``found_random``.
        stand_in: the network whose gradient is followed instead of the victim's own. The victim
            alone decides what wins. An attacker who knows that the victim hides its gradient does
            this (Athalye et al. 2018, backward pass differentiable approximation).
    """

    network: SwitchableNetwork
    bit_widths: tuple[int, ...]
    noisy: bool = False
    stand_in: SwitchableNetwork | None = None

    def __post_init__(self) -> None:
        if not self.bit_widths:
            raise InputError("A victim needs at least one bit-width.")

    @property
    def random(self) -> bool:
        """Whether two answers to the same image may differ."""
        return self.noisy or len(self.bit_widths) > 1

    @contextmanager
    def drawn(self, generator: torch.Generator) -> Iterator[int]:
        """The network for one answer: inside the block it is at the yielded bit-width."""
        if len(self.bit_widths) == 1:
            bits = self.bit_widths[0]
        else:
            chosen = torch.randint(len(self.bit_widths), (), generator=generator)
            bits = self.bit_widths[int(chosen)]
        with self.network.at(bits):
            yield bits

    def predict(
        self, images: NDArray[np.uint8], generator: torch.Generator, *, batch_size: int = 128
    ) -> NDArray[np.int64]:
        """Classes, int64 N, of uint8 images N×3×H×W, with a separate draw for each image."""
        drawn = torch.zeros(len(images), dtype=torch.int64)
        if len(self.bit_widths) > 1:
            drawn = torch.randint(len(self.bit_widths), (len(images),), generator=generator)
        classes = np.zeros(len(images), np.int64)
        for place, bits in enumerate(self.bit_widths):
            rows = np.flatnonzero(drawn.numpy() == place)
            if len(rows):
                found = logits(self.network, images[rows], bits, batch_size=batch_size)
                classes[rows] = found.argmax(axis=1)
        return classes


def found_random(network: SwitchableNetwork, pixels: Tensor, bits: int) -> dict[str, bool]:
    """Whether two evaluations of the same float pixels N×3×H×W differ in a bit of the ``logits``,
    or of the ``gradients`` at the pixels."""
    answers, gradients = [], []
    with evaluation_mode(network), network.at(bits):
        for _ in range(2):
            seen = pixels.detach().clone().requires_grad_()
            found = network(seen)
            answers.append(found.detach())
            gradients.append(pixel_gradient(found.square().sum(), seen))
    return {
        "logits": not torch.equal(*answers),
        "gradients": not torch.equal(*(torch.nan_to_num(gradient) for gradient in gradients)),
    }


def pixel_gradient(loss: Tensor, pixels: Tensor) -> Tensor:
    """The gradient of a scalar at the pixels, float of their shape (N×3×H×W); zero where the scalar
    does not depend on them."""
    if not loss.requires_grad:
        return torch.zeros_like(pixels)
    (found,) = torch.autograd.grad(loss, pixels, allow_unused=True)
    return torch.zeros_like(pixels) if found is None else found
