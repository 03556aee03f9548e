"""The layers of a planned network by their types, for tests that look into one."""

from __future__ import annotations

from torch import nn

from training.quantize import Network
from training.quantize.layers import LastLinear, PlannedConvolution
from training.quantize.norms import SwitchableBatchNorm2d
from training.quantized_layers import Convolution
from training.quantizers import ActivationQuantizer, LearnedScale


def convolutions(network: Network) -> dict[str, PlannedConvolution]:
    """All convolutions by name, in the order of the network."""
    names = [step.name for step in network.plan.steps if step.kind == "convolution"]
    return {name: convolution(network, name) for name in names}


def convolution(network: Network, name: str) -> PlannedConvolution:
    """The convolution of this name."""
    layer = network.layer(name)
    assert isinstance(layer, PlannedConvolution)
    return layer


def weights(layer: PlannedConvolution) -> Convolution:
    """The Brevitas convolution inside."""
    assert layer.conv is not None
    return layer.conv


def scale(layer: PlannedConvolution) -> LearnedScale:
    """Of the codes that the layer gives."""
    assert isinstance(layer.output, ActivationQuantizer)
    return layer.output.scale


def norm(layer: PlannedConvolution, bits: int) -> nn.BatchNorm2d:
    """The BatchNorm of one bit-width."""
    assert isinstance(layer.norm, SwitchableBatchNorm2d)
    found = layer.norm.norms[str(bits)]
    assert isinstance(found, nn.BatchNorm2d)
    return found


def last(network: Network) -> LastLinear:
    """The last layer."""
    layer = network.layer(network.plan.steps[-1].name)
    assert isinstance(layer, LastLinear)
    return layer
