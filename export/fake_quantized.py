"""The fake-quantized network's own codes, by the names that the integer file gives its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.networks import Network
from training.networks.inverted_residual import InvertedResidual, StreamUnit
from training.networks.layers import part_name, units_of
from training.networks.units import ResidualBlock
from training.prediction import logits as logits_of
from training.quantizers import FLOAT, STREAM_BITS

Batch = tuple[NDArray[np.float32], dict[str, NDArray[np.int16]]]
"""Logits N×classes, and codes by layer with zero point 0."""


class FakeQuantized:
    """Runs a network in torch and reads the codes off its fake-quantized tensors.

    A code is the tensor's value over its scale, rounded: the value is a code times the scale but
    for one float32 rounding.

    Args:
        network: in evaluation mode.
        bits: an integer bit-width of it.
    """

    def __init__(self, network: Network, bits: int) -> None:
        if network.training or bits == FLOAT:
            raise ValueError("expected a network in evaluation at an integer bit-width")
        self.network = network
        self.bits = bits
        with network.at(bits), torch.no_grad():
            self._places = _places(network)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the tensors of codes."""
        return tuple(self._places)

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> Batch:
        """Logits and codes of one batch, uint8 N×3×H×W."""
        codes: dict[str, NDArray[np.int16]] = {}

        def keep(name: str, scale: Tensor) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
                codes[name] = torch.round(output / scale).to(torch.int16).cpu().numpy()

            return hook

        hooks = [
            module.register_forward_hook(keep(name, scale))
            for name, (module, scale) in self._places.items()
        ]
        try:
            logits = logits_of(self.network, images, self.bits, len(images))
        finally:
            for hook in hooks:
                hook.remove()
        return logits, codes


def _places(network: Network) -> dict[str, tuple[nn.Module, Tensor]]:
    places: dict[str, tuple[nn.Module, Tensor]] = {}
    units = units_of(network)
    places["stem"] = (network.stem, network.stem.output.scale.value())
    for index, part in enumerate(network.blocks):
        name = part_name(part, index)
        if isinstance(part, ResidualBlock | InvertedResidual | StreamUnit):
            enter = part.branch_codes
            if enter.codes_bits() != STREAM_BITS:
                places[f"{name}.enter"] = (cast(Any, part).enter, enter.value())
        for layer, unit in units.items():
            if layer == name or layer.startswith(f"{name}."):
                places[layer] = (unit, unit.output.scale.value())
        if isinstance(part, ResidualBlock) or (
            isinstance(part, InvertedResidual) and part.leave is not None
        ):
            places[name] = (part, part.stream_quantizer.scale.value())
    head = network.head
    places["pool"] = (head.quantize, head.pooled_codes.value())
    return places
