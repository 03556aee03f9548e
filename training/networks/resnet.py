"""CIFAR ResNets (He et al. 2016, section 4.2): depth 6 n + 2, widths 16, 32, 64.

Shortcuts that change the shape are 1×1 convolutions (option B): a padded identity would need its
own scale, a convolution lands on the stream's.
"""

from __future__ import annotations

import torch

from training.network_spec import NetworkSpec
from training.networks.initialise import initialise
from training.networks.network import Network
from training.networks.units import ConvUnit, Head, ResidualBlock
from training.quantizers import (
    STREAM_BITS,
    ActivationQuantizer,
    BitWidthSwitch,
    LearnedScale,
    PixelQuantizer,
)

WIDTHS = (16, 32, 64)


def cifar_resnet(spec: NetworkSpec, generator: torch.Generator, *, depth: int) -> Network:
    """ResNet-``depth`` with freshly drawn weights (He initialisation from ``generator``)."""
    blocks_per_stage, rest = divmod(depth - 2, 6)
    if rest or blocks_per_stage < 1:
        raise ValueError(f"a CIFAR ResNet has depth 6 n + 2, got {depth}")
    switch = BitWidthSwitch(spec)
    pixels = PixelQuantizer(switch)
    stream = LearnedScale(switch, stream=True)
    stem = ConvUnit(
        switch,
        pixels,
        3,
        WIDTHS[0],
        ActivationQuantizer(switch, stream, signed=False),
        kernel=3,
        fixed_bits=STREAM_BITS,
    )
    blocks: list[ResidualBlock] = []
    channels, size = WIDTHS[0], spec.input_size
    for stage, width in enumerate(WIDTHS):
        for index in range(blocks_per_stage):
            enters = index == 0 and stage > 0
            stream_out = LearnedScale(switch, stream=True) if enters else stream
            stride = 2 if enters else 1
            blocks.append(ResidualBlock(switch, channels, width, stride, stream, stream_out))
            stream, channels = stream_out, width
            size = (size + stride - 1) // stride
    head = Head(switch, stream, channels=channels, positions=size * size, classes=spec.classes)
    network = Network(spec, switch, pixels, stem, blocks, head)
    initialise(network, generator)
    return network
