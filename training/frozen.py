"""The network for an inner attack or a penalty: differentiable, and left unchanged.

A defense that runs the network in addition to the training step must not change what only the step
may change: BatchNorm statistics (of the one bit-width), activation scales that are set from the
first batch they see, and the noise stream of GIR.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.quantize import Network
from training.quantize.norms import SwitchableBatchNorm2d
from training.quantizers import LearnedScale


@contextmanager
def frozen_statistics(network: Network, *, of_batch: bool = False) -> Iterator[Network]:
    """The training network with constant BatchNorm statistics and activation scales.

    Weights, BatchNorm gains and biases still get gradients; activation scales do not, and gradient
    noise is off.  Everything is as before after the ``with`` block, the running statistics too.

    Args:
        network: in training mode.
        of_batch: BatchNorm takes the statistics of the batch, as the training step does, and leaves
            the running ones unchanged; for losses with a gradient to the weights. Otherwise it
            takes the running ones, so that no image affects another and an attack runs on the
            network that is deployed.
    """
    untracked = [m for m in network.modules() if of_batch and isinstance(m, nn.BatchNorm2d)]
    kinds = LearnedScale if of_batch else nn.BatchNorm2d | SwitchableBatchNorm2d | LearnedScale
    frozen = [m for m in network.modules() if isinstance(m, kinds)]
    before = [m.training for m in frozen]
    scales = [p for m in frozen if isinstance(m, LearnedScale) for p in m.parameters()]
    learned = [p.requires_grad for p in scales]
    switch = network.switch
    noise = switch.gradient_noise
    for module in frozen:
        module.training = False
    for norm in untracked:
        norm.track_running_stats = False
    for scale in scales:
        scale.requires_grad_(False)
    switch.gradient_noise = 0.0
    try:
        yield network
    finally:
        switch.gradient_noise = noise
        for module, mode in zip(frozen, before, strict=True):
            module.training = mode
        for norm in untracked:
            norm.track_running_stats = True
        for scale, wanted in zip(scales, learned, strict=True):
            scale.requires_grad_(wanted)


def image_losses(network: Network, pixels: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image, float32 (N,), at the active bit-width; no label smoothing."""
    return F.cross_entropy(network(pixels), labels, reduction="none")


def pixel_gradient(
    network: Network, pixels: Tensor, labels: Tensor, *, differentiable: bool = False
) -> Tensor:
    """The gradient of each image's own cross-entropy at its pixels, N×3×H×W.

    ``pixels`` float32 N×3×H×W in [0, 255].  Call it inside :func:`frozen_statistics`: without
    ``of_batch`` no image of the batch affects another there.  With ``differentiable`` the result
    has a graph back to the weights (double backward), otherwise it is detached.
    """
    leaf = pixels.detach().requires_grad_()
    total = image_losses(network, leaf, labels).sum()
    (gradient,) = torch.autograd.grad(total, leaf, create_graph=differentiable)
    return gradient
