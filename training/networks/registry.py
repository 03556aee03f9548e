"""The networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from torch import nn

from deploy.core.errors import InputError
from training.named import called, is_foreign, named, unknown
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


def float_network(name: str, *, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """A float network by name.

    Args:
        name: one of :data:`NETWORKS`, or ``package.module:callable``: called with the number of
            classes where it takes an argument, it gives a float ``nn.Module``
            (:func:`training.named.named`).
        classes: number of logits.
        image_size: (height, width) in pixels, which the project's VGG needs.

    Raises:
        InputError: an unknown network (the message lists the known ones), or a callable that does
            not exist or returns something else.
    """
    if is_foreign(name):
        return _foreign(name, classes)
    maker = NETWORKS.get(name)
    if maker is None:
        raise unknown("network", name, sorted(NETWORKS))
    return maker(classes, min(image_size))


def _foreign(name: str, classes: int) -> nn.Module:
    takes = inspect.signature(named(name, "network")).parameters
    made = called(name, "network", *([classes] if takes else []))
    if not isinstance(made, nn.Module):
        raise InputError(f"{name} returned a {type(made).__name__}, expected a torch nn.Module")
    return made
