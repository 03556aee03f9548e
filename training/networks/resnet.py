"""Residual networks (He et al. 2016): those for CIFAR (section 4.2) and for ImageNet (table 1).

The CIFAR networks have depth 6 n + 2 and widths 16, 32, 64; shortcuts that change the shape are 1×1
convolutions (option B): a padded identity would need a separate scale, while a convolution outputs
codes at the stream's scale.  The ImageNet networks have a 7×7/2 stem, a 3×3/2 max-pool and four
stages; ResNet-18 and -34 have blocks of two 3×3 convolutions, ResNet-50 has bottlenecks whose
stride is in the 3×3 convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.parts import normed

CIFAR_WIDTHS = (16, 32, 64)
IMAGENET_STEM = 64
IMAGENET_WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Two 3×3 convolutions, or with ``bottleneck`` channels a 1×1, a 3×3 and a 1×1; a shortcut."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, bottleneck: int | None = None
    ) -> None:
        super().__init__()
        self.deep = bottleneck is not None
        if bottleneck is None:
            self.first, self.first_norm = normed(channels_in, channels_out, 3, stride)
            self.second, self.second_norm = normed(channels_out, channels_out, 3)
        else:
            self.first, self.first_norm = normed(channels_in, bottleneck, 1)
            self.second, self.second_norm = normed(bottleneck, bottleneck, 3, stride)
            self.third, self.third_norm = normed(bottleneck, channels_out, 1)
        self.changes = stride != 1 or channels_in != channels_out
        if self.changes:
            self.shortcut, self.shortcut_norm = normed(channels_in, channels_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        if self.deep:
            y = self.third_norm(self.third(F.relu(y)))
        return F.relu(y + (self.shortcut_norm(self.shortcut(x)) if self.changes else x))


class ResNet(nn.Module):
    """Stem, for ImageNet a max-pool, blocks, average, linear layer."""

    def __init__(
        self, stem: int, kernel: int, pool: bool, blocks: list[nn.Module], out: int, classes: int
    ) -> None:
        super().__init__()
        self.stem, self.stem_norm = normed(3, stem, kernel, 2 if pool else 1)
        self.parts = []
        parts = [nn.MaxPool2d(3, 2, 1), *blocks] if pool else blocks
        for index, part in enumerate(parts):
            name = f"maxpool{index}" if isinstance(part, nn.MaxPool2d) else f"block{index}"
            self.add_module(name, part)
            self.parts.append(name)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(out, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        for name in self.parts:
            x = self.get_submodule(name)(x)
        return self.linear(self.pool(x).flatten(1))


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Blocks in each of the four stages, and the ratio of a block's output width to its inner width
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


def cifar_resnet(classes: int, size: int, *, depth: int) -> ResNet:
    """ResNet-``depth`` for images of 32 px, or any other ``size``."""
    del size  # the average takes any
    count, rest = divmod(depth - 2, 6)
    if rest or count < 1:
        raise ValueError(f"expected a CIFAR ResNet of depth 6 n + 2, got {depth}")
    blocks: list[nn.Module] = []
    channels = CIFAR_WIDTHS[0]
    for stage, width in enumerate(CIFAR_WIDTHS):
        for index in range(count):
            blocks.append(Block(channels, width, 2 if index == 0 and stage > 0 else 1))
            channels = width
    return ResNet(CIFAR_WIDTHS[0], 3, False, blocks, channels, classes)


def imagenet_resnet(classes: int, size: int, *, depth: int) -> ResNet:
    """ResNet-``depth`` for images of 224 px, or any other ``size``."""
    del size
    plan = DEPTHS[depth]
    blocks: list[nn.Module] = []
    channels = IMAGENET_STEM
    for stage, (width, count) in enumerate(zip(IMAGENET_WIDTHS, plan.blocks, strict=True)):
        out = width * plan.expansion
        for index in range(count):
            stride = 2 if index == 0 and stage > 0 else 1
            bottleneck = width if plan.expansion > 1 else None
            blocks.append(Block(channels, out, stride, bottleneck))
            channels = out
    return ResNet(IMAGENET_STEM, 7, True, blocks, channels, classes)
