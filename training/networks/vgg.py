"""VGG with BatchNorm (Simonyan & Zisserman 2015): a plain stack of 3×3 convolutions and max-pools.

Codes of b bits go from each convolution to the next; the max-pool takes the largest code.  The last
layer before the linear one gives 8-bit codes, for averages and a classifier need the resolution.

Two heads: average pool and linear (the usual one for 32×32 images), or the paper's two wide layers,
written as convolutions (the first as large as the map it sees, the second 1×1) with BatchNorm in
place of dropout.  A pool that would leave less than one position is left out, so small images work.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn

from training.network_spec import NetworkSpec
from training.networks.initialise import initialise
from training.networks.network import Network
from training.networks.units import ConvUnit, Head, MaxPool
from training.quantizers import (
    STREAM_BITS,
    ActivationQuantizer,
    BitWidthSwitch,
    LearnedScale,
    PixelQuantizer,
)

STAGES: Mapping[int, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
        16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    }
)
"""Channels of the convolutions before each max-pool, by depth."""

WIDE = 4096
"""Channels of the paper's two layers before the classifier."""


def vgg(spec: NetworkSpec, generator: torch.Generator, *, depth: int, wide_layers: bool) -> Network:
    """VGG-``depth``-BN with freshly drawn weights; ``wide_layers``: with the paper's two."""
    switch = BitWidthSwitch(spec)
    pixels = PixelQuantizer(switch)

    def codes(*, last: bool) -> ActivationQuantizer:
        return ActivationQuantizer(switch, LearnedScale(switch, stream=last), signed=False)

    widths = [width for stage in STAGES[depth] for width in stage]
    output = codes(last=False)
    stem = ConvUnit(switch, pixels, 3, widths[0], output, kernel=3, fixed_bits=STREAM_BITS)
    blocks: list[nn.Module] = []
    channels, size, done = widths[0], spec.input_size, 1
    for index, stage in enumerate(STAGES[depth]):
        for width in stage[1:] if index == 0 else stage:
            done += 1
            source, output = output, codes(last=done == len(widths) and not wide_layers)
            blocks.append(ConvUnit(switch, source.scale, channels, width, output, kernel=3))
            channels = width
        if size > 1:
            pool = MaxPool(kernel=2, stride=2)
            blocks.append(pool)
            size = pool.size_after(size)
    if wide_layers:
        for kernel, last in ((size, False), (1, True)):
            source, output = output, codes(last=last)
            blocks.append(
                ConvUnit(switch, source.scale, channels, WIDE, output, kernel=kernel, padding=0)
            )
            channels, size = WIDE, 1
    head = Head(
        switch, output.scale, channels=channels, positions=size * size, classes=spec.classes
    )
    network = Network(spec, switch, pixels, stem, blocks, head)
    initialise(network, generator)
    return network
