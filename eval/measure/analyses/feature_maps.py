"""The outputs of the first convolutions without and with the patch, at each bit-width.

These are the paper's feature maps: the first three convolution units in the order of the network,
after BatchNorm and quantizer. Over all images, for each unit and bit-width, with F the output
C×h×w:

* ``change``  ‖F(patched) - F(clean)‖ / ‖F(clean)‖, the effect of the patch;
* ``to_widest``  cosine of F at this bit-width and at the widest, on clean and on patched images:
  whether quantization preserves the effect of the patch.

For the first images of the sample, as maps h×w: ``mean``, the mean magnitude over the channels, and
``most_changed``, the channel that the patch changes most at the widest bit-width (the same one at
all of them). Maps of one image, unit and kind share one scale, over bit-widths, with and without
the patch, so that their shades can be compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import TypedDict

from eval.measure.analyses.activations import activations, convolutions_of
from eval.measure.analyses.analysis_settings import AnalysisSettings
from eval.measure.analyses.means import Mean, mean_where
from eval.measure.analyses.sample import Sample
from eval.measure.analyses.stored_map import StoredMap, store_map
from training.agreement import direction
from training.quantize import Network
from training.validated import AtLeast0, AtLeast1

KIND = "feature-maps"
UNITS = 3
"""How many convolutions from the front."""


class AtBits(TypedDict):
    """One convolution unit at one bit-width; a mean is null where every output is zero."""

    layer: str
    bit_width: AtLeast1
    change: Mean | None
    clean_to_widest: Mean | None
    patched_to_widest: Mean | None


class MapsOfUnit(TypedDict):
    """One image in one unit; maps in the order of the payload's bit-widths."""

    index: AtLeast0
    """Of the image within the split."""
    layer: str
    channel: AtLeast0
    """The one that ``most_changed`` shows."""
    mean: dict[str, list[StoredMap]]
    """``clean`` and ``patched``."""
    most_changed: dict[str, list[StoredMap]]


class FeatureMaps(TypedDict):
    """The analysis' own part of the payload."""

    units: list[AtBits]
    shown: list[MapsOfUnit]


def analyse(network: Network, sample: Sample, settings: AnalysisSettings) -> FeatureMaps:
    """Analyse the first convolutions at each bit-width; the first bit-width of the settings is
    "widest"."""
    names = list(convolutions_of(network))[:UNITS]
    shown = min(settings.shown, len(sample))
    figures: dict[tuple[str, int], list[Tensor]] = {}
    kept: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
    for first in range(0, len(sample), settings.batch_size):
        some = slice(first, first + settings.batch_size)
        widest: dict[str, tuple[Tensor, Tensor]] = {}
        for bits in settings.bit_widths:
            clean = activations(network, sample.clean[some], bits, names)
            patched = activations(network, sample.patched[some], bits, names)
            for name in names:
                pair = clean[name], patched[name]
                wide = widest.setdefault(name, pair)
                figures.setdefault((name, bits), []).append(_figures(pair, wide))
                if first == 0:
                    kept[name, bits] = pair[0][:shown], pair[1][:shown]
    units = []
    for (name, bits), batches in figures.items():
        change, known, *cosines = torch.cat(batches, dim=1).numpy()
        clean_cosine, clean_known, patched_cosine, patched_known = cosines
        units.append(
            AtBits(
                layer=name,
                bit_width=bits,
                change=mean_where(change, known > 0),
                clean_to_widest=mean_where(clean_cosine, clean_known > 0),
                patched_to_widest=mean_where(patched_cosine, patched_known > 0),
            )
        )
    indices = sample.patch_set.image_indices
    return FeatureMaps(
        units=sorted(units, key=lambda u: (names.index(u["layer"]), -u["bit_width"])),
        shown=[
            _maps(int(indices[row]), name, [_rows(kept[name, b], row) for b in settings.bit_widths])
            for row in range(shown)
            for name in names
        ],
    )


def _figures(pair: tuple[Tensor, Tensor], wide: tuple[Tensor, Tensor]) -> Tensor:
    """Change and cosines with whether each is known, float64 6×N."""
    clean, patched = (output.double() for output in pair)
    length = clean.flatten(1).norm(dim=1)
    rows = [(patched - clean).flatten(1).norm(dim=1) / length.clamp_min(1e-12), length]
    for output, other in zip(pair, wide, strict=True):
        lengths = output.double().flatten(1).norm(dim=1) * other.double().flatten(1).norm(dim=1)
        rows += [direction(output.double(), other.double()).clamp(-1.0, 1.0), lengths]
    return torch.stack(rows)


def _rows(pair: tuple[Tensor, Tensor], row: int) -> tuple[NDArray[Any], NDArray[Any]]:
    return pair[0][row].numpy(), pair[1][row].numpy()


def _maps(index: int, layer: str, outputs: list[tuple[NDArray[Any], NDArray[Any]]]) -> MapsOfUnit:
    """``outputs``: (clean, patched) C×h×w at each bit-width, the widest first."""
    clean, patched = outputs[0]
    channel = int(((patched - clean) ** 2).sum(axis=(1, 2)).argmax())
    means = [[np.abs(one).mean(axis=0) for one in pair] for pair in outputs]
    channels = [[one[channel] for one in pair] for pair in outputs]
    return MapsOfUnit(
        index=index,
        layer=layer,
        channel=channel,
        mean=_stored(means),
        most_changed=_stored(channels),
    )


def _stored(pairs: list[list[NDArray[Any]]]) -> dict[str, list[StoredMap]]:
    low = min(float(one.min()) for pair in pairs for one in pair)
    high = max(float(one.max()) for pair in pairs for one in pair)
    return {
        name: [store_map(pair[place], low, high) for pair in pairs]
        for place, name in enumerate(("clean", "patched"))
    }
