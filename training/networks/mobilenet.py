"""MobileNetV2 (Sandler et al. 2018, table 2): inverted residuals with linear bottlenecks.

The bottlenecks are streams of signed 8-bit codes, one scale for each width of table 2; between
expansion, depthwise convolution and projection stand unsigned b-bit codes under ReLU6.
"""

from __future__ import annotations

import torch
from torch import nn

from training.network_spec import NetworkSpec
from training.networks.initialise import initialise
from training.networks.inverted_residual import InvertedResidual, StreamUnit
from training.networks.network import Network
from training.networks.units import ConvUnit, Head
from training.quantizers import (
    STREAM_BITS,
    ActivationQuantizer,
    BitWidthSwitch,
    LearnedScale,
    PixelQuantizer,
)

STEM_CHANNELS, FIRST_CHANNELS, LAST_CHANNELS = 32, 16, 1280

STAGES = (
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and first stride of each stage after the first (which has no
expansion: a depthwise convolution and a projection to 16 channels)."""


def mobilenet_v2(spec: NetworkSpec, generator: torch.Generator) -> Network:
    """MobileNetV2 at width 1 for ``spec.input_size`` (224 in the paper), weights freshly drawn."""
    switch = BitWidthSwitch(spec)
    pixels = PixelQuantizer(switch)
    six = InvertedResidual.CEILING

    def rectified(*, stream: bool = False) -> ActivationQuantizer:
        return ActivationQuantizer(switch, LearnedScale(switch, stream=stream), signed=False)

    def signed_stream() -> LearnedScale:
        return LearnedScale(switch, stream=True, signed=True)

    first = rectified()
    stem = ConvUnit(
        switch,
        pixels,
        3,
        STEM_CHANNELS,
        first,
        kernel=3,
        stride=2,
        ceiling=six,
        fixed_bits=STREAM_BITS,
    )
    filtered, stream = rectified(), signed_stream()
    blocks: list[nn.Module] = [
        ConvUnit(
            switch,
            first.scale,
            STEM_CHANNELS,
            STEM_CHANNELS,
            filtered,
            kernel=3,
            groups=STEM_CHANNELS,
            ceiling=six,
        ),
        ConvUnit(
            switch,
            filtered.scale,
            STEM_CHANNELS,
            FIRST_CHANNELS,
            ActivationQuantizer(switch, stream, signed=True),
            kernel=1,
        ),
    ]
    channels, size = FIRST_CHANNELS, (spec.input_size + 1) // 2
    for expansion, width, count, first_stride in STAGES:
        for index in range(count):
            stride = first_stride if index == 0 else 1
            stream_out = signed_stream() if index == 0 else stream
            blocks.append(
                InvertedResidual(switch, channels, width, expansion, stride, stream, stream_out)
            )
            channels, stream = width, stream_out
            size = (size + stride - 1) // stride
    last = rectified(stream=True)
    blocks.append(StreamUnit(switch, stream, channels, LAST_CHANNELS, last, kernel=1, ceiling=six))
    head = Head(
        switch, last.scale, channels=LAST_CHANNELS, positions=size * size, classes=spec.classes
    )
    network = Network(spec, switch, pixels, stem, blocks, head)
    initialise(network, generator)
    return network
