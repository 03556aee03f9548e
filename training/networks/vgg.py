"""VGG with BatchNorm (Simonyan & Zisserman 2015): a plain stack of 3×3 convolutions and max-pools.

Two heads: average pool and linear (the usual one for 32×32 images), or the paper's two wide layers,
written as convolutions (the first as large as the map it sees, the second 1×1) with BatchNorm in
place of dropout.  A pool that would leave less than one position is left out, so small images work.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.parts import normed

STAGES: Mapping[int, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
        16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    }
)
"""Channels of the convolutions before each max-pool, by depth."""

WIDE = 4096
"""Channels of the paper's two layers before the classifier."""


class Vgg(nn.Module):
    """VGG-``depth``-BN for images of ``size`` px; ``wide_layers``: with the paper's wide layers."""

    def __init__(self, classes: int, size: int, *, depth: int, wide_layers: bool) -> None:
        super().__init__()
        widths = STAGES[depth]
        self.stem, self.stem_norm = normed(3, widths[0][0], 3)
        self.parts: list[tuple[str, str]] = []
        channels = widths[0][0]
        for index, stage in enumerate(widths):
            for width in stage[1:] if index == 0 else stage:
                self._convolution(channels, width, 3)
                channels = width
            if size > 1:
                name = f"maxpool{len(self.parts)}"
                self.add_module(name, nn.MaxPool2d(2, 2))
                self.parts.append((name, ""))
                size //= 2
        if wide_layers:
            for kernel in (size, 1):
                self._convolution(channels, WIDE, kernel, padding=0)
                channels = WIDE
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, classes)

    def _convolution(self, inside: int, out: int, kernel: int, padding: int | None = None) -> None:
        name = f"conv{len(self.parts)}"
        conv, norm = normed(inside, out, kernel, padding=padding)
        self.add_module(name, conv)
        self.add_module(f"{name}_norm", norm)
        self.parts.append((name, f"{name}_norm"))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        for name, norm in self.parts:
            x = self.get_submodule(name)(x)
            if norm:
                x = F.relu(self.get_submodule(norm)(x))
        return self.linear(self.pool(x).flatten(1))
