"""How alike the input gradients of one network are at two bit-widths.

A patch made at one bit-width transfers to another to the extent that their gradients point the
same way; quantization is said to misalign them (the paper, gradient alignment between bit-widths;
Guesmi, Ouni, Shafique, "TriQDef", ICLR 2026, edge IoU and HOG cosine of input gradients). With a
and b the gradients of an image's cross-entropy at its pixels, float32 3×H×W, at two bit-widths,
inside a region R (the image; inside the patch; outside it):

* ``cosine``          <a, b> / (‖a‖ ‖b‖) over R, in [-1, 1];
* ``mse``             mean of (a - b)² over R, in squared loss per squared pixel value;
* ``relative_mse``    ‖a - b‖² / (‖a‖² + ‖b‖²) over R, in [0, 2]: 0 for equal gradients, 1 for
  orthogonal ones of any length;
* ``edge_iou``        |A ∩ B| / |A ∪ B| of the edges inside R of the channel means, an edge being
  where the Sobel magnitude is above ``EDGE`` times its mean over the image, in [0, 1];
* ``hog_cosine``      cosine of the soft histograms of oriented gradients inside R, in [0, 1].

The last two are above 0 for unrelated maps too: ``chance`` holds them, and the cosine, between an
image's gradient and that of the next image of the sample.

A gradient that is zero everywhere in R has no direction; such images are left out and counted.
Where neither gradient has an edge in R, there is no IoU: that mean has a smaller n.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import TypedDict

from eval.measure.analyses.analysis_settings import AnalysisSettings
from eval.measure.analyses.input_gradients import input_gradients
from eval.measure.analyses.means import Mean, mean_where
from eval.measure.analyses.sample import Sample
from training.agreement import EDGE, direction, grey, orientation_agreement, sobel
from training.prediction import SwitchableNetwork
from training.validated import AtLeast0, AtLeast1

KIND = "gradient-alignment"

Region = Literal["image", "inside", "outside"]
On = Literal["clean", "patched"]
MEASURES = ("cosine", "mse", "relative_mse", "edge_iou", "hog_cosine")
AT_CHANCE = ("cosine", "edge_iou", "hog_cosine")
SMALLEST = torch.finfo(torch.float64).tiny
"""Keeps a division by the length of a zero gradient finite."""


class Pair(TypedDict):
    """Two bit-widths on one kind of images in one region; a mean is null where no image has it."""

    bit_widths: list[AtLeast1]
    on: On
    region: Region
    zero_gradients: AtLeast0
    """Images left out: the gradient of one of the two is zero all over the region."""
    measures: dict[str, Mean | None]
    """By the names of :data:`MEASURES`."""
    chance: dict[str, Mean | None]
    """By the names of :data:`AT_CHANCE`; null for a single image."""


class GradientAlignment(TypedDict):
    """The analysis' own part of the payload."""

    pairs: list[Pair]


def analyse(
    network: SwitchableNetwork, sample: Sample, settings: AnalysisSettings
) -> GradientAlignment:
    """Analyse every pair of bit-widths on clean and patched images, in every region."""
    inside = torch.from_numpy(sample.region)
    regions: dict[Region, Tensor] = {
        "image": torch.ones_like(inside),
        "inside": inside,
        "outside": ~inside,
    }
    images: dict[On, Any] = {"clean": sample.clean, "patched": sample.patched}
    pairs: list[Pair] = []
    for on, pixels in images.items():
        gradients = {
            bits: input_gradients(
                network, pixels, sample.labels, bits, batch_size=settings.batch_size
            )
            for bits in settings.bit_widths
        }
        widths = sorted(settings.bit_widths, reverse=True)
        pairs += [
            _pair([wide, narrow], on, name, gradients[wide], gradients[narrow], region)
            for i, wide in enumerate(widths)
            for narrow in widths[i + 1 :]
            for name, region in regions.items()
        ]
    return GradientAlignment(pairs=pairs)


def agreements(a: Tensor, b: Tensor, region: Tensor) -> dict[str, Tensor]:
    """The measures of the module's docstring, each float (N,).

    Args:
        a: gradients float32 N×3×H×W.
        region: bool N×H×W.
    """
    within = region[:, None].to(torch.float64)
    wide, narrow = a.double() * within, b.double() * within
    difference = (wide - narrow).square().sum(dim=(1, 2, 3))
    lengths = (wide.square() + narrow.square()).sum(dim=(1, 2, 3))
    area = within.sum(dim=(1, 2, 3)) * a.shape[1]
    # At unit length: the gradients of a confident network are so small that squares underflow.
    whole = grey(_unit(a)), grey(_unit(b))
    return {
        "cosine": direction(_unit(wide), _unit(narrow)).clamp(-1.0, 1.0),
        "mse": difference / area.clamp_min(1.0),
        "relative_mse": difference / lengths.clamp_min(SMALLEST),
        "edge_iou": edge_iou(*whole, region),
        "hog_cosine": orientation_agreement(*whole, region).clamp(0.0, 1.0),
    }


def edge_iou(a: Tensor, b: Tensor, region: Tensor) -> Tensor:
    """IoU of the two maps' edges inside the region, float (N,); NaN where neither has one.

    Args:
        a: maps, float N×H×W.
        region: bool N×H×W.
    """
    ours, theirs = _edges(a) & region, _edges(b) & region
    shared = (ours & theirs).sum(dim=(1, 2)).float()
    either = (ours | theirs).sum(dim=(1, 2)).float()
    return torch.where(either > 0, shared / either.clamp_min(1.0), torch.nan)


def _edges(maps: Tensor) -> Tensor:
    x, y = sobel(maps)
    magnitude = (x.square() + y.square()).sqrt()
    return magnitude > EDGE * magnitude.mean(dim=(1, 2), keepdim=True)


def _unit(gradients: Tensor) -> Tensor:
    """Each gradient, N×3×H×W, divided by its root mean square; a zero one stays zero."""
    wide = gradients.double()
    return wide / wide.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(SMALLEST)


def _pair(
    bit_widths: list[int], on: On, name: Region, a: Tensor, b: Tensor, region: Tensor
) -> Pair:
    known = _nonzero(a, region) & _nonzero(b, region)
    found = agreements(a, b, region)
    chance: dict[str, Mean | None] = dict.fromkeys(AT_CHANCE)
    if len(a) > 1:
        others = torch.roll(b, 1, dims=0)
        unrelated = agreements(a, others, region)
        comparable = _nonzero(a, region) & _nonzero(others, region)
        chance = {key: _mean(unrelated[key], comparable) for key in AT_CHANCE}
    return Pair(
        bit_widths=bit_widths,
        on=on,
        region=name,
        zero_gradients=int((~known).sum()),
        measures={key: _mean(found[key], known) for key in MEASURES},
        chance=chance,
    )


def _nonzero(gradients: Tensor, region: Tensor) -> Tensor:
    return ((gradients != 0.0) & region[:, None]).flatten(1).any(dim=1)


def _mean(values: Tensor, known: Tensor) -> Mean | None:
    return mean_where(values.double().numpy(), (known & values.isfinite()).numpy())
