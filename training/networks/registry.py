"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from torch import nn

from deploy.core.errors import InputError
from training.networks.mobilenet import MobileNetV2
from training.networks.resnet import cifar_resnet, imagenet_resnet
from training.networks.vgg import Vgg

NETWORKS: Mapping[str, Callable[[int, int], nn.Module]] = MappingProxyType(
    {
        **{f"resnet{depth}": partial(cifar_resnet, depth=depth) for depth in (8, 20, 56)},
        **{f"resnet{depth}": partial(imagenet_resnet, depth=depth) for depth in (18, 34, 50)},
        "vgg11": partial(Vgg, depth=11, wide_layers=False),
        "vgg16": partial(Vgg, depth=16, wide_layers=False),
        "vgg16-imagenet": partial(Vgg, depth=16, wide_layers=True),
        "mobilenetv2": MobileNetV2,
    }
)
"""Makers of float modules, from classes and image side in pixels, by the name that a config's
``network`` gives."""


def float_network(name: str, *, classes: int, size: int) -> nn.Module:
    """A float network by name, weights as torch draws them.

    Raises:
        InputError: an unknown network; names the known ones.
    """
    maker = NETWORKS.get(name)
    if maker is None:
        raise InputError(f"there is no network {name!r}; known are {', '.join(sorted(NETWORKS))}")
    return maker(classes, size)
