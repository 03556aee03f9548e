"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from deploy.device.errors import InputError
from training.networks.network import Network, NetworkSpec
from training.networks.resnet import cifar_resnet

Builder = Callable[[NetworkSpec, torch.Generator], Network]


def _cifar(depth: int) -> Builder:
    def build(spec: NetworkSpec, generator: torch.Generator) -> Network:
        return cifar_resnet(spec, depth, generator)

    return build


NETWORKS: Mapping[str, Builder] = MappingProxyType(
    {f"resnet{depth}": _cifar(depth) for depth in (8, 20, 56)}
)
"""Builders by the name that a config's ``network`` gives."""


def build_network(spec: NetworkSpec, generator: torch.Generator) -> Network:
    """A network with freshly drawn weights; ``InputError`` naming the known ones."""
    builder = NETWORKS.get(spec.name)
    if builder is None:
        raise InputError(
            f"there is no network {spec.name!r}; known are {', '.join(sorted(NETWORKS))}"
        )
    return builder(spec, generator)
