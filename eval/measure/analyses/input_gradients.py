"""Gradients of a network's loss or logit at the pixels, image by image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eval.attacks.adaptive.victim import pixel_gradient
from eval.attacks.predictions import evaluation_mode
from training.prediction import SwitchableNetwork, device_of

Scalar = Callable[[Tensor, Tensor], Tensor]
"""From logits N×C and labels N to one value an image, N."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each image, (N,), which an attacker raises."""
    return F.cross_entropy(logits, labels, reduction="none")


def predicted_logit(logits: Tensor, labels: Tensor) -> Tensor:
    """The logit of the class that the network predicts, (N,), which a saliency map explains."""
    return logits.amax(dim=1)


def input_gradients(
    network: SwitchableNetwork,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    bits: int,
    *,
    of: Scalar = cross_entropy,
    batch_size: int = 100,
) -> Tensor:
    """Gradients of each image's own value at its pixels, float32 N×3×H×W, on the CPU.

    They are taken in evaluation mode, with the straight-through estimators that the network was
    trained with; zero where the value does not depend on the pixels. Units: of the value, per pixel
    value (0…255).

    Args:
        images: uint8 N×3×H×W.
        labels: int64 N.
    """
    device = device_of(network)
    found = []
    with evaluation_mode(network), network.at(bits):
        for first in range(0, len(images), batch_size):
            some = slice(first, first + batch_size)
            pixels = torch.from_numpy(images[some]).to(device).float().requires_grad_()
            values = of(network(pixels), torch.from_numpy(labels[some]).to(device))
            found.append(pixel_gradient(values.sum(), pixels).float().cpu())
    return torch.cat(found)
