"""The outputs of a network's convolution units, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.attacks.predictions import device_of, evaluation_mode
from training.networks.layers import units_of
from training.networks.network import Network


def activations(
    network: Network, images: NDArray[np.uint8], bits: int, layers: Sequence[str]
) -> dict[str, Tensor]:
    """The outputs of convolution units behind BatchNorm and quantizer, float32 N×C×h×w on the CPU.

    Args:
        network: in any mode; asked in evaluation mode.
        images: uint8 N×3×H×W, one batch.
        bits: the bit-width.
        layers: names, as :func:`training.networks.layers.units_of` gives them.
    """
    found: dict[str, Tensor] = {}
    pixels = torch.from_numpy(images).to(device_of(network)).float()
    with (
        _kept(network, layers, found),
        evaluation_mode(network),
        network.at(bits),
        torch.no_grad(),
    ):
        network(pixels)
    return {name: found[name] for name in layers}


@contextmanager
def _kept(network: Network, layers: Sequence[str], found: dict[str, Tensor]) -> Iterator[None]:
    units = units_of(network)
    handles = []
    for name in layers:

        def keep(_: Any, __: Any, output: Tensor, name: str = name) -> None:
            found[name] = output.detach().float().cpu()

        handles.append(units[name].register_forward_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
