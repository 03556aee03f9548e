"""Where on the image a patch wins: ASR with every patch moved to each place of a grid.

This is the paper's spatial sensitivity. The patch's content is unchanged; only its place changes.
The ASR is over the images that the network classifies correctly without a patch (and, for a
targeted patch, whose label is not the target), the same images at every place. The floor is given
as well: uniform noise of the same size at the same places.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from deploy.core.patch_set import random_floor
from deploy.core.share import share
from deploy.core.success import attack_success
from eval.attacks.predictions import predict
from eval.measure.analyses.analysis_settings import AnalysisSettings, grid
from eval.measure.analyses.means import Mean, mean_of
from eval.measure.analyses.sample import Sample
from training.prediction import SwitchableNetwork
from training.record_types import Share
from training.validated import AtLeast0, AtLeast1

KIND = "patch-locations"


class AtBits(TypedDict):
    """One bit-width; grids are lists of rows (top edges) of columns (left edges)."""

    bit_width: AtLeast1
    n: AtLeast1
    """Images that count, at every place."""
    own_place: Share
    """Where each patch was made for."""
    successes: list[list[AtLeast0]]
    """Of n, at each place."""
    floor_successes: list[list[AtLeast0]]
    """Of n: noise of the same size at each place."""
    somewhere: Share
    """Images on which the patch wins at one place of the grid or more."""
    floor_somewhere: Share
    """The same for noise: many places give noise many chances, too."""
    over_places: Mean
    """Share of the grid's places at which the patch wins, the mean over the n images."""


class PatchLocations(TypedDict):
    """The analysis' own part of the payload."""

    tops_px: list[AtLeast0]
    lefts_px: list[AtLeast0]
    bits: list[AtBits]


def analyse(
    network: SwitchableNetwork, sample: Sample, settings: AnalysisSettings
) -> PatchLocations:
    """ASR and floor at every place of the grid, at each bit-width.

    Raises:
        NothingToEvaluate: no image counts.
        InputError: the patch is larger than the image.
    """
    size = sample.patch_set.size_px
    tops, lefts = (
        grid(length, side, settings.stride_px)
        for length, side in zip(sample.image_size, size, strict=True)
    )
    noise = random_floor(sample.patch_set, np.random.default_rng(settings.seed))
    floor = replace(sample, patch_set=noise)
    found = []
    for bits in settings.bit_widths:
        clean = predict(network, sample.clean, bits, batch_size=settings.batch_size)

        def won(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
            patched = predict(network, images, bits, batch_size=settings.batch_size)  # noqa: B023
            target = sample.patch_set.target
            rate = attack_success(clean, patched, sample.labels, target)  # noqa: B023
            return rate.success[rate.eligible]

        at = np.array([[won(sample.patched_at(t, left)) for left in lefts] for t in tops])
        noisy = np.array([[won(floor.patched_at(t, left)) for left in lefts] for t in tops])
        own = predict(network, sample.patched, bits, batch_size=settings.batch_size)
        n = at.shape[2]
        found.append(
            AtBits(
                bit_width=bits,
                n=n,
                own_place=attack_success(clean, own, sample.labels, sample.patch_set.target).share,
                successes=at.sum(axis=2).tolist(),
                floor_successes=noisy.sum(axis=2).tolist(),
                somewhere=share(int(at.any(axis=(0, 1)).sum()), n),
                floor_somewhere=share(int(noisy.any(axis=(0, 1)).sum()), n),
                over_places=mean_of(at.mean(axis=(0, 1))),
            )
        )
    return PatchLocations(tops_px=tops, lefts_px=lefts, bits=found)
