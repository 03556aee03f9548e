"""The fake-quantized network's own codes, by the names that the integer file gives its layers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from training.prediction import pixels_of
from training.quantize import Network
from training.quantize.graph import MOVERS
from training.quantizers import FLOAT, STREAM_BITS

Batch = tuple[NDArray[np.float32], dict[str, NDArray[np.int16]]]
"""Logits N×classes, and codes by layer with zero point 0."""


class FakeQuantized:
    """Runs a network in torch and recovers the codes from its fake-quantized tensors.

    A code is the tensor's value divided by its scale, rounded; the value is a code times the scale,
    apart from one float32 rounding. An operator that only moves codes has no entry.

    Args:
        network: in evaluation mode.
        bits: one of its integer bit-widths.
    """

    def __init__(self, network: Network, bits: int) -> None:
        if network.training or bits == FLOAT:
            raise ValueError("expected a network in evaluation at an integer bit-width")
        self.network = network
        self.bits = bits
        with network.at(bits), torch.no_grad():
            self._scales = {
                step.name: network.scale_of(step.name).value()
                for step in network.plan.steps
                if step.kind not in ("pixels", "linear", "concat", *MOVERS)
                and not (
                    step.kind == "requantize"
                    and network.scale_of(step.name).codes_bits() == STREAM_BITS
                )
            }

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> Batch:
        """Logits and codes of one batch, uint8 N×C×H×W."""
        network = self.network
        with network.at(self.bits):
            found = network.run(pixels_of(network, images), keep=tuple(self._scales))
        codes = {
            name: torch.round(found[name] / scale).to(torch.int16).cpu().numpy()
            for name, scale in self._scales.items()
        }
        return found[network.plan.steps[-1].name].cpu().numpy(), codes
