"""The other bit-width that a penalty compares the network with, and GIR's penalty itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.agreement import direction, edge_agreement, grey, orientation_agreement
from training.frozen import frozen_statistics, pixel_gradient
from training.quantize import Network
from training.randomness import generator_for


def drawn_partner(network: Network, seed: int, step: int) -> int | None:
    """A bit-width other than the active one, drawn from those that have been trained already
    (their activation scales are set); None if there is none yet."""
    started = started_partners(network)
    if not started:
        return None
    draw = torch.randint(len(started), (), generator=generator_for(seed, step, "partner"))
    return started[int(draw)]


def started_partners(network: Network) -> list[int]:
    """The bit-widths other than the active one that have been trained already, widest first."""
    return [b for b in network.bit_widths if b != network.bit_width and network.is_ready(b)]


def patched_region(clean: Tensor, patched: Tensor, margin_px: int) -> Tensor:
    """Where ``patched`` differs from ``clean`` (both N×3×H×W), grown by ``margin_px`` on each side:
    bool N×H×W, the patch and its surroundings whatever its shape and place."""
    changed = (clean != patched).any(dim=1, keepdim=True).float()
    grown = F.max_pool2d(changed, 2 * margin_px + 1, stride=1, padding=margin_px)
    return grown[:, 0] > 0.0


def gradient_agreement(
    network: Network, pixels: Tensor, labels: Tensor, partner: int, region: Tensor
) -> Tensor:
    """How alike the input gradients at the active bit-width and at ``partner`` are in ``region``.

    The mean over images of (max(0, cosine) + SoftDice of edges + cosine of HOGs) / 3, in [0, 1]: a
    scalar whose graph reaches the weights only through the active bit-width's gradient.  ``pixels``
    float32 N×3×H×W in [0, 255], ``labels`` int64 (N,), ``region`` bool N×H×W.

    BatchNorm takes the statistics of these images, as in the step.  With the running statistics,
    the penalty could be lowered by ruining the network that uses them, and the training loss would
    not oppose that.
    """
    with frozen_statistics(network, of_batch=True):
        with network.at(partner):
            other = pixel_gradient(network, pixels, labels)
        own = pixel_gradient(network, pixels, labels, differentiable=True)
    structure = (grey(own), grey(other), region)
    # Opposed gradients do not transfer: below 0 there is nothing to punish.
    agreement = direction(own, other, region).clamp_min(0.0)
    agreement = agreement + edge_agreement(*structure) + orientation_agreement(*structure)
    return agreement.mean() / 3.0
