"""The places of the image that a network relies on: the drop of the true logit when one is covered.

Occlusion sensitivity (Zeiler and Fergus, "Visualizing and understanding convolutional networks",
ECCV 2014, sec. 4.2): a grey square (128, the zero of the normalised input) covers each place of a
grid. The drop is the logit of the true class without the square minus that with it, as the mean
over the images that the network classifies correctly without it. A negative drop means that
covering the place helps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from deploy.core.errors import NothingToEvaluate
from eval.attacks.predictions import logits
from eval.measure.analyses.analysis_settings import AnalysisSettings, grid
from eval.measure.analyses.means import means_of
from eval.measure.analyses.sample import Sample
from training.prediction import SwitchableNetwork
from training.validated import AtLeast0, AtLeast1

KIND = "occlusion"
GREY = 128
"""Of the square, 0…255."""


class AtBits(TypedDict):
    """One bit-width; grids are lists of rows (top edges) of columns (left edges)."""

    bit_width: AtLeast1
    n: AtLeast1
    """Images that count: right without the square."""
    drop: list[list[float]]
    """Mean drop of the true class's logit, in logits."""
    low: list[list[float]]
    """Lower bound of the mean's 95% bootstrap interval."""
    high: list[list[float]]
    lost: list[list[AtLeast0]]
    """Of n, images that are wrong with the square there."""


class Occlusion(TypedDict):
    """The analysis' own part of the payload."""

    grey: AtLeast0
    tops_px: list[AtLeast0]
    lefts_px: list[AtLeast0]
    bits: list[AtBits]


def analyse(network: SwitchableNetwork, sample: Sample, settings: AnalysisSettings) -> Occlusion:
    """The drop at every place of the grid, at each bit-width, on the images without patches.

    Raises:
        NothingToEvaluate: the network classifies no image correctly.
        InputError: the square is larger than the image.
    """
    side, (height, width) = settings.occluder_px, sample.image_size
    tops = grid(height, side, settings.stride_px)
    lefts = grid(width, side, settings.stride_px)
    found = []
    for bits in settings.bit_widths:
        before = logits(network, sample.clean, bits, batch_size=settings.batch_size)
        right = before.argmax(axis=1) == sample.labels
        if not right.any():
            raise NothingToEvaluate(f"The network has none of the images right at {bits} bits.")
        images, labels = sample.clean[right], sample.labels[right]
        every = np.arange(len(images))
        places = []
        for top in tops:
            for left in lefts:
                seen = covered_by_grey(images, top, left, side)
                after = logits(network, seen, bits, batch_size=settings.batch_size)
                drop = before[right][every, labels] - after[every, labels]
                places.append((drop, after.argmax(axis=1) != labels))
        shape = (len(tops), len(lefts))
        mean, low, high = means_of(np.stack([drop for drop, _ in places], axis=1))
        found.append(
            AtBits(
                bit_width=bits,
                n=len(images),
                drop=mean.reshape(shape).tolist(),
                low=low.reshape(shape).tolist(),
                high=high.reshape(shape).tolist(),
                lost=np.array([lost.sum() for _, lost in places]).reshape(shape).tolist(),
            )
        )
    return Occlusion(grey=GREY, tops_px=tops, lefts_px=lefts, bits=found)


def covered_by_grey(images: NDArray[np.uint8], top: int, left: int, side: int) -> NDArray[np.uint8]:
    """Copies of uint8 N×3×H×W images with a grey square, all in pixels."""
    covered = images.copy()
    covered[:, :, top : top + side, left : left + side] = GREY
    return covered
