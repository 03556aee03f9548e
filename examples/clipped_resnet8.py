"""CIFAR ResNet-8s in which one position adds at most a cap to each pooled feature.

A patch covers few positions of the last map, so a cap there bounds how far it moves the average
that the linear layer reads (Zhang, Yuan, McCoyd, Wagner, "Clipped BagNet", DLS 2020).  In integers
the cap is one table.  A config names one as its network:
``name = "examples.clipped_resnet8:cap1"``.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from training.networks.resnet import ResNet, cifar_resnet


def clipped(classes: int, *, cap: float) -> ResNet:
    """ResNet-8 whose last map is clipped to 0…``cap`` before its average."""
    network = cifar_resnet(classes, 32, depth=8)
    network.add_module("clip", nn.Hardtanh(0.0, cap))
    network.parts.append("clip")
    return network


free = partial(cifar_resnet, size=32, depth=8)
cap2 = partial(clipped, cap=2.0)
cap1 = partial(clipped, cap=1.0)
cap_half = partial(clipped, cap=0.5)
