"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch

from deploy.core.errors import InputError
from training.network_spec import NetworkSpec
from training.networks.imagenet_resnet import imagenet_resnet
from training.networks.layers import assign_bit_widths
from training.networks.mobilenet import mobilenet_v2
from training.networks.network import Network
from training.networks.resnet import cifar_resnet
from training.networks.vgg import vgg

Builder = Callable[[NetworkSpec, torch.Generator], Network]

NETWORKS: Mapping[str, Builder] = MappingProxyType(
    {
        **{f"resnet{depth}": partial(cifar_resnet, depth=depth) for depth in (8, 20, 56)},
        **{f"resnet{depth}": partial(imagenet_resnet, depth=depth) for depth in (18, 34, 50)},
        "vgg11": partial(vgg, depth=11, wide_layers=False),
        "vgg16": partial(vgg, depth=16, wide_layers=False),
        "vgg16-imagenet": partial(vgg, depth=16, wide_layers=True),
        "mobilenetv2": mobilenet_v2,
    }
)
"""Builders by the name that a config's ``network`` gives."""


def build_network(spec: NetworkSpec, generator: torch.Generator) -> Network:
    """A network with freshly drawn weights.

    Raises:
        InputError: an unknown network, or layer in ``spec.mixed``; names the known ones.
    """
    builder = NETWORKS.get(spec.name)
    if builder is None:
        raise InputError(
            f"there is no network {spec.name!r}; known are {', '.join(sorted(NETWORKS))}"
        )
    network = builder(spec, generator)
    assign_bit_widths(network, spec.mixed)
    return network
