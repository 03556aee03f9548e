"""What the (fake-quantized) network gives for bytes, batch by batch: the one home of it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.quantize import Network


def pixels_of(network: Network, images: NDArray[np.uint8]) -> Tensor:
    """Images uint8 N×C×H×W as a network takes them: float32, channels last, on its device."""
    device = next(network.parameters()).device
    # A copy: torch warns of arrays that cannot be written, as those of a cache cannot.
    pixels = torch.from_numpy(np.array(images)).to(device).float()
    return pixels.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def logits(
    network: Network, images: NDArray[np.uint8], bits: int, batch_size: int = 125
) -> NDArray[np.float32]:
    """Logits, float32 N×classes, of images uint8 N×3×H×W, ``batch_size`` at a time.

    Args:
        network: in evaluation mode.
        bits: the bit-width.
    """
    found = []
    with network.at(bits):
        for start in range(0, len(images), batch_size):
            pixels = pixels_of(network, images[start : start + batch_size])
            found.append(network(pixels).cpu().numpy())
    return np.concatenate(found)


def predict(
    network: Network, images: NDArray[np.uint8], bits: int, batch_size: int = 125
) -> NDArray[np.int64]:
    """Predicted classes, int64 (N,); as :func:`logits`."""
    return np.asarray(logits(network, images, bits, batch_size).argmax(axis=1), np.int64)
