"""The outputs of a network's convolutions, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.attacks.predictions import evaluation_mode
from training.prediction import pixels_of
from training.quantize import Network


def convolutions_of(network: Network) -> tuple[str, ...]:
    """The names of the network's convolutions, in the order of the forward pass."""
    return tuple(step.name for step in network.plan.steps if step.kind == "convolution")


def activations(
    network: Network, images: NDArray[np.uint8], bits: int, layers: Sequence[str]
) -> dict[str, Tensor]:
    """The outputs of convolutions after BatchNorm and quantizer, float32 N×C×h×w on the CPU.

    Args:
        network: in any mode; run in evaluation mode.
        images: uint8 N×C×H×W, one batch.
        bits: the bit-width.
        layers: names, as :func:`convolutions_of` returns them.
    """
    with evaluation_mode(network), network.at(bits), torch.no_grad():
        found = network.run(pixels_of(network, images), keep=layers)
    return {name: found[name].float().cpu() for name in layers}
