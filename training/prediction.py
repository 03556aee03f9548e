"""Predictions of the (fake-quantized) network for uint8 images, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class SwitchableNetwork(Protocol):
    """What evaluation needs of a network; ``training.quantize.Network`` has it.

    Called with float pixel values 0…255, N×3×H×W, it returns logits N×C; ``at(bits)`` switches the
    bit-width inside a ``with`` block (32 is float).
    """

    training: bool

    def __call__(self, pixels: Tensor, /) -> Tensor:
        """Logits, float N×C, of pixel values."""
        ...

    def at(self, bits: int) -> AbstractContextManager[Any]:
        """The network at a bit-width, inside a ``with`` block."""
        ...

    def train(self, mode: bool = True) -> Any:
        """As in torch."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """As in torch."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """As in torch."""
        ...


def device_of(network: SwitchableNetwork) -> torch.device:
    """The device of the network's first parameter; the CPU for one without parameters."""
    parameter = next(iter(network.parameters()), None)
    return torch.device("cpu") if parameter is None else parameter.device


def pixels_of(
    network: SwitchableNetwork, images: NDArray[np.uint8], *, channels_last: bool = True
) -> Tensor:
    """Images uint8 N×C×H×W as a network takes them: float32, on its device.

    Channels last is the quicker layout; the last bits of a float sum may depend on it.
    """
    # A copy: torch warns about read-only arrays, such as those of a cache.
    pixels = torch.from_numpy(np.array(images)).to(device_of(network)).float()
    return pixels.contiguous(memory_format=torch.channels_last) if channels_last else pixels


@torch.no_grad()
def logits(
    network: SwitchableNetwork,
    images: NDArray[np.uint8],
    bits: int,
    batch_size: int = 125,
    *,
    channels_last: bool = True,
) -> NDArray[np.float32]:
    """Logits, float32 N×classes, of images uint8 N×C×H×W, ``batch_size`` at a time.

    Args:
        network: in evaluation mode.
        bits: the bit-width.
        channels_last: as :func:`pixels_of`.
    """
    found = []
    with network.at(bits):
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            pixels = pixels_of(network, part, channels_last=channels_last)
            found.append(network(pixels).float().cpu().numpy())
    return np.concatenate(found)


def predict(
    network: SwitchableNetwork, images: NDArray[np.uint8], bits: int, batch_size: int = 125
) -> NDArray[np.int64]:
    """Predicted classes, int64 (N,); as :func:`logits`."""
    return np.asarray(logits(network, images, bits, batch_size).argmax(axis=1), np.int64)
