"""ImageNet ResNets (He et al. 2016, table 1): 7×7/2 stem, 3×3/2 max-pool, four stages.

ResNet-18 and -34 have blocks of two 3×3 convolutions, ResNet-50 bottlenecks whose stride lies in
the 3×3 convolution.  The max-pool works on the codes of the 8-bit stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from training.network_spec import NetworkSpec
from training.networks.initialise import initialise
from training.networks.network import Network
from training.networks.units import ConvUnit, Head, MaxPool, ResidualBlock
from training.quantizers import (
    STREAM_BITS,
    ActivationQuantizer,
    BitWidthSwitch,
    LearnedScale,
    PixelQuantizer,
)

STEM_CHANNELS = 64
WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Blocks in each of the four stages, and how much wider a block's output is than its inside
    (1: two 3×3 convolutions and no bottleneck)."""

    blocks: tuple[int, int, int, int]
    expansion: int


DEPTHS: Mapping[int, Depth] = MappingProxyType(
    {
        18: Depth(blocks=(2, 2, 2, 2), expansion=1),
        34: Depth(blocks=(3, 4, 6, 3), expansion=1),
        50: Depth(blocks=(3, 4, 6, 3), expansion=4),
    }
)


def imagenet_resnet(spec: NetworkSpec, generator: torch.Generator, *, depth: int) -> Network:
    """ResNet-``depth`` for images of ``spec.input_size`` (224 in the paper), freshly drawn."""
    plan = DEPTHS[depth]
    switch = BitWidthSwitch(spec)
    pixels = PixelQuantizer(switch)
    stream = LearnedScale(switch, stream=True)
    stem = ConvUnit(
        switch,
        pixels,
        3,
        STEM_CHANNELS,
        ActivationQuantizer(switch, stream, signed=False),
        kernel=7,
        stride=2,
        fixed_bits=STREAM_BITS,
    )
    pool = MaxPool(kernel=3, stride=2, padding=1)
    blocks: list[nn.Module] = [pool]
    channels, size = STEM_CHANNELS, pool.size_after((spec.input_size + 1) // 2)
    for stage, (width, count) in enumerate(zip(WIDTHS, plan.blocks, strict=True)):
        out = width * plan.expansion
        for index in range(count):
            stride = 2 if index == 0 and stage > 0 else 1
            enters = stride != 1 or channels != out
            stream_out = LearnedScale(switch, stream=True) if enters else stream
            bottleneck = width if plan.expansion > 1 else None
            blocks.append(
                ResidualBlock(
                    switch, channels, out, stride, stream, stream_out, bottleneck=bottleneck
                )
            )
            stream, channels = stream_out, out
            size = (size + stride - 1) // stride
    head = Head(switch, stream, channels=channels, positions=size * size, classes=spec.classes)
    network = Network(spec, switch, pixels, stem, blocks, head)
    initialise(network, generator)
    return network
