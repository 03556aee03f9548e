"""Networks without trained weights, calibrated on real images so that their figures mean something.

Drawn weights stay as they are. BatchNorm statistics and activation scales come from real images,
and the linear layer is fitted to the labels by ridge regression on the network's own pooled
codes: a weak classifier, but one whose classes depend on the image and whose logits lie close
together, which is the hard case for counting flips.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.data import ImageSet
from training.data.subset import chosen_indices
from training.network_spec import NetworkSpec
from training.prediction import pixels_of
from training.quantize import Network
from training.quantize.build import build_network
from training.quantize.layers import LastLinear

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
    shown, labels = images.images[chosen], images.labels[chosen]
    with network.at(bits):
        _passed(network, shown, batch)
        network.for_evaluation()
        fit_last_layer(network, shown, labels, batch)
    network.store_scales()
    return network


@torch.no_grad()
def fit_last_layer(
    network: Network, images: NDArray[np.uint8], labels: NDArray[np.int64], batch: int
) -> None:
    """Fit the last layer, where it is one, to ``labels`` by ridge regression on what it reads at
    the active bit-width.

    Args:
        network: in evaluation mode from here on.
        images: uint8 N×C×H×W.
        labels: int64 N.
        batch: images at once.
    """
    last = cast(LastLinear, network.layer(network.plan.steps[-1].name))
    if network.plan.steps[-1].attributes.get("identity"):
        return
    network.eval()
    source = network.plan.steps[-1].inputs[0]
    features = [
        network.run(pixels_of(network, images[start : start + batch]), keep=[source])[source]
        for start in range(0, len(images), batch)
    ]
    _fit(last, torch.cat(features).flatten(1).double(), torch.from_numpy(labels))


def _passed(network: Network, images: NDArray[np.uint8], batch: int) -> None:
    for start in range(0, len(images), batch):
        network(pixels_of(network, images[start : start + batch]))


def _fit(last: LastLinear, features: Tensor, labels: Tensor) -> None:
    """Ridge regression of ±1 targets, in the dual where there are fewer images than features."""
    classes = len(last.bias)
    targets = 2.0 * nn.functional.one_hot(labels, classes).double() - 1.0
    centre, offset = features.mean(dim=0), targets.mean(dim=0)
    x, y = features - centre, targets - offset
    n, d = x.shape
    ridge = RIDGE * x.square().sum() / d + 1e-12
    if n >= d:
        weight = torch.linalg.solve(x.T @ x + ridge * torch.eye(d, dtype=x.dtype), x.T @ y)
    else:
        weight = x.T @ torch.linalg.solve(x @ x.T + ridge * torch.eye(n, dtype=x.dtype), y)
    last.linear.weight.copy_(weight.T)
    last.bias.copy_(offset - centre @ weight)
