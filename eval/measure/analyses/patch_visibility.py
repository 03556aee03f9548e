"""How much of a network's computation is due to the patch: activation share and saliency inside it.

This is the paper's patch visibility, layer by layer at each bit-width. The energy of an output is
the sum of its squares over channels and positions. For each convolution unit (after BatchNorm and
quantizer), with and without the patch:

* ``seen``: share of the energy at the positions whose receptive field meets the patch
  (:func:`eval.measure.analyses.seen_region.seen_regions`), with the share of these positions among
  all. In deep layers these are all positions, and the share is not informative: hence
* ``under``: the same for the positions whose centre lies under the patch;
* ``change``: energy of (output with the patch - output without) over the energy without.

``saliency``: share of the magnitude of the gradient of the predicted logit at the pixels (largest
over the colours, Simonyan et al., ICLR-W 2014) that lies under the patch.

An image whose output is zero everywhere has no share; it is left out, and n is smaller.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypedDict

from eval.measure.analyses.activations import activations, convolutions_of
from eval.measure.analyses.analysis_settings import AnalysisSettings
from eval.measure.analyses.input_gradients import input_gradients, predicted_logit
from eval.measure.analyses.means import Mean, mean_of, mean_where
from eval.measure.analyses.sample import Sample
from eval.measure.analyses.seen_region import seen_regions, under_region
from training.quantize import Network
from training.record_types import Size
from training.validated import AtLeast1

KIND = "patch-visibility"


class Shares(TypedDict):
    """Shares, 0…1, inside one kind of region, means over images."""

    area: Mean
    clean: Mean | None
    patched: Mean | None


class Layer(TypedDict):
    """One convolution unit."""

    layer: str
    size_px: Size
    """Of its output."""
    seen: Shares
    under: Shares
    change: Mean | None


class AtBits(TypedDict):
    """One bit-width."""

    bit_width: AtLeast1
    layers: list[Layer]
    saliency: Shares


class PatchVisibility(TypedDict):
    """The analysis' own part of the payload."""

    bits: list[AtBits]


def analyse(network: Network, sample: Sample, settings: AnalysisSettings) -> PatchVisibility:
    """Analyse every layer at each bit-width."""
    region = torch.from_numpy(sample.region)
    seen = seen_regions(network.plan, region)
    return PatchVisibility(
        bits=[
            AtBits(
                bit_width=bits,
                layers=_layers(network, sample, bits, seen, region, settings.batch_size),
                saliency=_saliency(network, sample, bits, region, settings.batch_size),
            )
            for bits in settings.bit_widths
        ]
    )


def _layers(
    network: Network,
    sample: Sample,
    bits: int,
    seen: dict[str, Tensor],
    region: Tensor,
    batch_size: int,
) -> list[Layer]:
    names = list(convolutions_of(network))
    energies: dict[str, list[Tensor]] = {name: [] for name in names}
    sizes: dict[str, tuple[int, int]] = {}
    for first in range(0, len(sample), batch_size):
        some = slice(first, first + batch_size)
        clean = activations(network, sample.clean[some], bits, names)
        patched = activations(network, sample.patched[some], bits, names)
        for name in names:
            before, after = clean[name], patched[name]
            sizes[name] = (before.shape[2], before.shape[3])
            under = under_region(region[some], sizes[name])
            rows = [(after - before).double().square().sum(dim=(1, 2, 3))]
            for output in (before, after):
                energy = output.double().square().sum(dim=1)
                rows += [(energy * where).sum(dim=(1, 2)) for where in (seen[name][some], under)]
                rows.append(energy.sum(dim=(1, 2)))
            energies[name].append(torch.stack(rows))
    layers = []
    for name in names:
        change, *shares = torch.cat(energies[name], dim=1).numpy()
        clean_seen, clean_under, clean_all, patched_seen, patched_under, patched_all = shares
        under = under_region(region, sizes[name])
        layers.append(
            Layer(
                layer=name,
                size_px=list(sizes[name]),
                seen=Shares(
                    area=_area(seen[name]),
                    clean=_ratio(clean_seen, clean_all),
                    patched=_ratio(patched_seen, patched_all),
                ),
                under=Shares(
                    area=_area(under),
                    clean=_ratio(clean_under, clean_all),
                    patched=_ratio(patched_under, patched_all),
                ),
                change=_ratio(change, clean_all),
            )
        )
    return layers


def _saliency(
    network: Network, sample: Sample, bits: int, region: Tensor, batch_size: int
) -> Shares:
    def share_inside(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Mean | None:
        gradients = input_gradients(
            network, images, sample.labels, bits, of=predicted_logit, batch_size=batch_size
        )
        magnitude = gradients.double().abs().amax(dim=1)
        inside = (magnitude * region).sum(dim=(1, 2)).numpy()
        return _ratio(inside, magnitude.sum(dim=(1, 2)).numpy())

    return Shares(
        area=_area(region), clean=share_inside(sample.clean), patched=share_inside(sample.patched)
    )


def _area(region: Tensor) -> Mean:
    return mean_of(region.double().mean(dim=(1, 2)).numpy())


def _ratio(
    part: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    whole: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> Mean | None:
    known = whole > 0.0
    return mean_where(part / np.where(known, whole, 1.0), known)
