"""Predictions of the (fake-quantized) network on bytes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from training.networks import Network


@torch.no_grad()
def predict(
    network: Network, images: NDArray[np.uint8], bits: int, batch_size: int = 125
) -> NDArray[np.int64]:
    """Predicted classes, int64 (N,), of the (fake-quantized) network at ``bits``."""
    device = next(network.parameters()).device
    predicted = []
    with network.at(bits):
        for start in range(0, len(images), batch_size):
            pixels = torch.tensor(images[start : start + batch_size]).to(device)
            logits = network(pixels.float().contiguous(memory_format=torch.channels_last))
            predicted.append(logits.argmax(dim=1).cpu().numpy())
    return np.concatenate(predicted).astype(np.int64)
