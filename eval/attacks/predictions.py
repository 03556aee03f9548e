"""What a torch network predicts, in evaluation mode at one bit-width, batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.core.images import check_images


class SwitchableNetwork(Protocol):
    """What evaluation needs of a network; ``training.networks.Network`` has it.

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


def digest_state(digest: hashlib._Hash, network: SwitchableNetwork) -> None:
    """Add names and values of the network's state to a digest."""
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())


@contextmanager
def evaluation_mode(network: SwitchableNetwork) -> Iterator[None]:
    """Evaluation mode inside the block, and the mode from before after it."""
    before = network.training
    if before:
        network.train(False)
    try:
        yield
    finally:
        if before:
            network.train(True)


def logits(
    network: SwitchableNetwork, images: NDArray[np.uint8], bits: int, *, batch_size: int = 256
) -> NDArray[np.float32]:
    """Logits, float32 N×C, of uint8 images N×3×H×W at one bit-width.

    Raises:
        InputError: other images than these, or a bit-width that the network lacks.
    """
    check_images(images)
    device = device_of(network)
    batches = []
    with evaluation_mode(network), network.at(bits), torch.no_grad():
        for first in range(0, len(images), batch_size):
            pixels = torch.tensor(images[first : first + batch_size]).to(device)
            batches.append(network(pixels.float()).float().cpu().numpy())
    return np.concatenate(batches)


def predict(
    network: SwitchableNetwork, images: NDArray[np.uint8], bits: int, *, batch_size: int = 256
) -> NDArray[np.int64]:
    """Classes, int64 N, of uint8 images N×3×H×W at one bit-width; as ``logits``."""
    found = logits(network, images, bits, batch_size=batch_size)
    return np.asarray(found.argmax(axis=1), dtype=np.int64)
