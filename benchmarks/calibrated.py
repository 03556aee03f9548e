"""Networks without trained weights, calibrated on real images so that their figures mean something.

Drawn weights stay as they are. BatchNorm statistics and activation scales come from real images,
and the linear layer is fitted to the labels by ridge regression on the network's own pooled
codes: a weak classifier, but one whose classes depend on the image and whose logits lie close
together, which is the hard case for counting flips.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from training.data import ImageSet
from training.data.subset import chosen_indices
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network
from training.quantize.network import LastLinear

RIDGE = 1e-2
"""Of the features' mean square, added to the diagonal."""


@torch.no_grad()
def calibrated_network(
    name: str, bits: int, images: ImageSet, *, count: int, batch: int
) -> Network:
    """A network of one bit-width, in evaluation mode.

    Args:
        name: in the registry of networks.
        bits: its only bit-width.
        images: with labels, not those that are measured; they give the input size.
        count: of them to use.
        batch: images at once.
    """
    spec = NetworkSpec(
        name=name,
        classes=len(images.classes),
        input_size=images.images.shape[2],
        bit_widths=(bits,),
    )
    network = build_network(spec, torch.Generator().manual_seed(0))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    # In the order of the data set classes may stand together; a batch should hold many.
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).numpy()
    chosen = chosen_indices(len(images), count)[order][: count // batch * batch]
    features: list[Tensor] = []

    def pass_all() -> None:
        for start in range(0, len(chosen), batch):
            pixels = torch.from_numpy(images.images[chosen[start : start + batch]]).float()
            network(pixels.contiguous(memory_format=torch.channels_last))

    with network.at(bits):
        pass_all()
        network.for_evaluation()
        hook = _last(network).linear.register_forward_pre_hook(
            lambda _, inputs: features.append(_plain(inputs[0]))
        )
        pass_all()
    hook.remove()
    _fit(network, torch.cat(features).double(), torch.from_numpy(images.labels[chosen]))
    network.store_scales()
    return network


def _last(network: Network) -> LastLinear:
    return cast(LastLinear, network.layer(network.plan.steps[-1].name))


def _plain(x: object) -> Tensor:
    return cast(Tensor, x if isinstance(x, Tensor) else x.value)  # type: ignore[attr-defined]


def _fit(network: Network, features: Tensor, labels: Tensor) -> None:
    """Ridge regression of ±1 targets, in the dual where there are fewer images than features."""
    classes = network.spec.classes
    targets = 2.0 * nn.functional.one_hot(labels, classes).double() - 1.0
    centre, offset = features.mean(dim=0), targets.mean(dim=0)
    x, y = features - centre, targets - offset
    n, d = x.shape
    ridge = RIDGE * x.square().sum() / d + 1e-12
    if n >= d:
        weight = torch.linalg.solve(x.T @ x + ridge * torch.eye(d, dtype=x.dtype), x.T @ y)
    else:
        weight = x.T @ torch.linalg.solve(x @ x.T + ridge * torch.eye(n, dtype=x.dtype), y)
    _last(network).linear.weight.copy_(weight.T)
    _last(network).bias.copy_(offset - centre @ weight)
