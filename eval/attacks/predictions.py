"""Predictions of a torch network, in evaluation mode at one bit-width, batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deploy.core.images import check_images
from training.prediction import SwitchableNetwork
from training.prediction import logits as network_logits


def digest_state(digest: hashlib._Hash, network: SwitchableNetwork) -> None:
    """Add names and values of the network's state to a digest."""
    for key, value in sorted(network.state_dict().items()):
        digest.update(key.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())


@contextmanager
def evaluation_mode(network: SwitchableNetwork) -> Iterator[None]:
    """Evaluation mode inside the block, and the former mode after it.

    No parameter gets a gradient there: attacks and analyses need those of the pixels alone.
    """
    before = network.training
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        if before:
            network.train(False)
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        if before:
            network.train(True)


def logits(
    network: SwitchableNetwork, images: NDArray[np.uint8], bits: int, *, batch_size: int = 256
) -> NDArray[np.float32]:
    """Logits, float32 N×C, of uint8 images N×3×H×W at one bit-width.

    Raises:
        InputError: images of another form, or a bit-width that the network lacks.
    """
    check_images(images)
    with evaluation_mode(network):
        return network_logits(network, images, bits, batch_size, channels_last=False)


def predict(
    network: SwitchableNetwork, images: NDArray[np.uint8], bits: int, *, batch_size: int = 256
) -> NDArray[np.int64]:
    """Classes, int64 N, of uint8 images N×3×H×W at one bit-width; as ``logits``."""
    found = logits(network, images, bits, batch_size=batch_size)
    return np.asarray(found.argmax(axis=1), dtype=np.int64)
