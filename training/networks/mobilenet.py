"""MobileNetV2 (Sandler et al. 2018, table 2): inverted residuals with linear bottlenecks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.parts import normed

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


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; add the input where the shapes allow it."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.adds = stride == 1 and channels_in == channels_out
        self.expand, self.expand_norm = normed(channels_in, wide, 1)
        self.depthwise, self.depthwise_norm = normed(wide, wide, 3, stride, groups=wide)
        self.project, self.project_norm = normed(wide, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand_norm(self.expand(x)))
        y = F.relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return y + x if self.adds else y


class MobileNetV2(nn.Module):
    """Width 1, for images of 224 px in the paper, or any other ``size``."""

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        del size  # the average takes any size
        self.stem, self.stem_norm = normed(3, STEM_CHANNELS, 3, 2)
        self.conv0, self.conv0_norm = normed(STEM_CHANNELS, STEM_CHANNELS, 3, groups=STEM_CHANNELS)
        self.conv1, self.conv1_norm = normed(STEM_CHANNELS, FIRST_CHANNELS, 1)
        self.parts = []
        channels, index = FIRST_CHANNELS, 2
        for expansion, width, count, first_stride in STAGES:
            for number in range(count):
                stride = first_stride if number == 0 else 1
                self.add_module(
                    f"block{index}", InvertedResidual(channels, width, expansion, stride)
                )
                self.parts.append(f"block{index}")
                channels, index = width, index + 1
        self.last = f"conv{index}"
        conv, norm = normed(channels, LAST_CHANNELS, 1)
        self.add_module(self.last, conv)
        self.add_module(f"{self.last}_norm", norm)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(LAST_CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem_norm(self.stem(x)))
        x = F.relu6(self.conv0_norm(self.conv0(x)))
        x = self.conv1_norm(self.conv1(x))
        for name in self.parts:
            x = self.get_submodule(name)(x)
        x = self.get_submodule(f"{self.last}_norm")(self.get_submodule(self.last)(x))
        return self.linear(self.pool(F.relu6(x)).flatten(1))
