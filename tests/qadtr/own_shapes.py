"""Somebody's float networks: grey images of 28×36 px, and RGB ones of 96×128 px."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Grey(nn.Module):
    """Padding none, a pool, two linear layers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 5, 2), nn.BatchNorm2d(8)
        self.hidden, self.linear = nn.Linear(8 * 6 * 8, 12), nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        return self.linear(torch.relu(self.hidden(x.flatten(1))))


class Wide(nn.Module):
    """Large strides, a hard swish, a linear layer on a whole map."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 7, 4, 3, bias=False), nn.BatchNorm2d(8)
        self.conv, self.act = nn.Conv2d(8, 32, 3, 2, 1), nn.Hardswish()
        self.linear = nn.Linear(32 * 12 * 16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.linear(self.act(self.conv(x)).flatten(1))
