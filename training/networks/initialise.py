"""Freshly drawn weights, the same law for every network."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """He-normal convolutions (fan out), a uniform linear layer, from ``generator``; no bias."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            module.weight.normal_(0.0, (2.0 * module.groups / fan_out) ** 0.5, generator=generator)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            module.weight.uniform_(-bound, bound, generator=generator)
            module.bias.zero_()
