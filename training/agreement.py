"""How alike two input gradients, or two feature maps, look: soft edges, soft HOG, direction.

Every measure is differentiable and independent of the maps' magnitudes (which differ between
bit-widths for reasons that do not matter to an attacker): 1 for equal maps, clearly less for
unrelated ones (independent noise: direction about 0, edges 0.5, orientations 0.8).  Shapes: maps
float32 N×h×w, ``region`` bool N×h×w or None for everywhere; results float32 (N,), one per image.

References:
    Dalal and Triggs, "Histograms of oriented gradients for human detection", CVPR 2005.
    Guesmi, Ouni, Shafique, "TriQDef", ICLR 2026: edge IoU and HOG cosine of input gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-8
"""Keeps divisions finite where a map is constant."""

EDGE = 1.5
"""An edge is where the Sobel magnitude is above this multiple of its mean over the image."""

ORIENTATIONS = 8
"""Bins of the orientation histogram over 180°."""

CELL_PX = 4
"""Side of a cell of the orientation histogram."""

SHARPNESS = 4.0
"""Concentration of the soft assignment of an orientation to its bins (von Mises)."""


def direction(a: Tensor, b: Tensor, region: Tensor | None = None) -> Tensor:
    """Cosine of the two maps inside the region, in [-1, 1]; maps may be N×c×h×w here."""
    if region is not None:
        inside = region.to(a.dtype) if a.dim() == 3 else region[:, None].to(a.dtype)
        a, b = a * inside, b * inside
    a, b = a.flatten(1), b.flatten(1)
    return (a * b).sum(1) / ((a * a).sum(1) * (b * b).sum(1) + TINY**4).sqrt()


def sobel(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical derivative of each map, N×h×w both; the border is repeated."""
    kernel = maps.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8.0
    kernels = torch.stack([kernel, kernel.T])[:, None]
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")
    both = F.conv2d(padded, kernels)
    return both[:, 0], both[:, 1]


def soft_edges(maps: Tensor) -> Tensor:
    """q² / (q² + t²) for the squared Sobel magnitude q and t = (EDGE · mean magnitude)²: in [0, 1),
    one half where the magnitude is EDGE times the image's mean, steep around it; N×h×w.

    A gentler curve would give every pixel a middling value, and unrelated maps would agree.
    """
    magnitude = sobel_magnitude(maps)
    squared = magnitude.square()
    threshold = (EDGE * magnitude.mean(dim=(1, 2), keepdim=True)).square()
    return squared.square() / (squared.square() + threshold.square())


def sobel_magnitude(maps: Tensor) -> Tensor:
    """The Sobel magnitude of each map, scaled to a root mean square of 1, N×h×w."""
    x, y = sobel(_unit(maps))
    return (x * x + y * y + TINY).sqrt()


def soft_dice(a: Tensor, b: Tensor, region: Tensor | None = None) -> Tensor:
    """2 Σab / (Σa² + Σb²) inside the region, (N,) of maps N×h×w: the differentiable stand-in for
    the edges' IoU. ``region``: bool N×h×w; None takes all."""
    if region is not None:
        a, b = a * region.to(a.dtype), b * region.to(b.dtype)
    a, b = a.flatten(1), b.flatten(1)
    return (2.0 * (a * b).sum(1) + TINY) / ((a * a).sum(1) + (b * b).sum(1) + TINY)


def soft_orientations(maps: Tensor, region: Tensor | None = None) -> Tensor:
    """Soft histogram of oriented gradients, N×(orientations · cells), of unit length per image.

    A pixel's vote, its Sobel magnitude, is spread over the bins k by
    softmax_k(κ cos 2(θ - θ_k)); cos 2θ and sin 2θ come from the derivatives without an angle, so
    nothing jumps where θ wraps.  Cells of :data:`CELL_PX` pixels are averaged.
    """
    x, y = sobel(_unit(maps))
    squared = x * x + y * y + TINY
    cosine, sine = (x * x - y * y) / squared, 2.0 * x * y / squared
    angles = torch.arange(ORIENTATIONS, device=maps.device) * (2.0 * math.pi / ORIENTATIONS)
    likeness = cosine[:, None] * angles.cos()[:, None, None]
    likeness = likeness + sine[:, None] * angles.sin()[:, None, None]
    votes = (SHARPNESS * likeness).softmax(dim=1) * squared.sqrt()[:, None]
    if region is not None:
        votes = votes * region[:, None].to(votes.dtype)
    cell = min(CELL_PX, *maps.shape[1:])
    histogram = F.avg_pool2d(votes, cell, ceil_mode=True).flatten(1)
    return histogram / (histogram.square().sum(1, keepdim=True) + TINY).sqrt()


def orientation_agreement(a: Tensor, b: Tensor, region: Tensor | None = None) -> Tensor:
    """Cosine of the two soft HOGs of maps N×h×w, (N,) in [0, 1]; regions as :func:`soft_dice`."""
    return (soft_orientations(a, region) * soft_orientations(b, region)).sum(dim=1)


def edge_agreement(a: Tensor, b: Tensor, region: Tensor | None = None) -> Tensor:
    """SoftDice of the soft edges of maps N×h×w, (N,) in [0, 1]; regions as :func:`soft_dice`."""
    return soft_dice(soft_edges(a), soft_edges(b), region)


def grey(gradient: Tensor) -> Tensor:
    """The mean over channels of a pixel gradient N×c×h×w: N×h×w."""
    return gradient.mean(dim=1)


def _unit(maps: Tensor) -> Tensor:
    """Each map divided by its root mean square."""
    return maps / (maps.square().mean(dim=(1, 2), keepdim=True) + TINY**4).sqrt()
