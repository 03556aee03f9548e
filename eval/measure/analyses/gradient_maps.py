"""Pictures of the input gradient at each bit-width, without and with the patch.

A map is the largest magnitude over the colours of the gradient of an image's cross-entropy at its
pixels, h×w (Simonyan, Vedaldi, Zisserman, "Deep inside convolutional networks", ICLR-W 2014, sec.
3, there of the class score). Each map is scaled to its own maximum: patterns are compared, not
magnitudes; ``high`` is the magnitude.
"""

from __future__ import annotations

from typing_extensions import TypedDict

from eval.measure.analyses.analysis_settings import AnalysisSettings
from eval.measure.analyses.input_gradients import input_gradients
from eval.measure.analyses.sample import Sample
from eval.measure.analyses.stored_map import StoredMap, store_map
from training.prediction import SwitchableNetwork
from training.validated import AtLeast0

KIND = "gradient-maps"


class MapsOfImage(TypedDict):
    """The maps of one image, in the order of the payload's bit-widths."""

    index: AtLeast0
    """Within the split."""
    clean: list[StoredMap]
    patched: list[StoredMap]


class GradientMaps(TypedDict):
    """The analysis' own part of the payload."""

    shown: list[MapsOfImage]


def analyse(network: SwitchableNetwork, sample: Sample, settings: AnalysisSettings) -> GradientMaps:
    """The maps of the first images of the sample."""
    count = min(settings.shown, len(sample))
    labels = sample.labels[:count]
    maps: dict[str, list[list[StoredMap]]] = {"clean": [], "patched": []}
    for name, images in (("clean", sample.clean), ("patched", sample.patched)):
        for bits in settings.bit_widths:
            gradients = input_gradients(network, images[:count], labels, bits)
            magnitudes = gradients.abs().amax(dim=1).numpy()
            maps[name].append([store_map(one, low=0.0) for one in magnitudes])
    return GradientMaps(
        shown=[
            MapsOfImage(
                index=int(sample.patch_set.image_indices[row]),
                clean=[of_bits[row] for of_bits in maps["clean"]],
                patched=[of_bits[row] for of_bits in maps["patched"]],
            )
            for row in range(count)
        ]
    )
