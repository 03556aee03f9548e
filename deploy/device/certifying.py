"""Certificates on the device: on how many images no patch of a size can win against this engine.

Unlike a search or a patch that was brought, this needs no attack: what it counts holds for every
patch of the size, known or not (:mod:`..core.double_masking`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.double_masking import Certification, certify, covering_masks
from ..core.engine_protocol import Engine
from ..core.errors import UsageError
from .measuring import shuffled
from .suite import Suite


@dataclass(frozen=True, kw_only=True)
class CertifySettings:
    """How to certify on the device.

    Attributes:
        patch_px: side of the patches that are to have no effect.
        images: how many at most, each other than the rest; the same for the same bundle and model.
        masks_per_axis: masks along a side; their pairs are asked.
        min_certified: the share of certified images must be over it, 0…1; None gates nothing.

    Raises:
        UsageError: a value out of its range.
    """

    patch_px: int
    images: int = 100
    masks_per_axis: int = 6
    min_certified: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("patch_px", 1), ("images", 1), ("masks_per_axis", 2)):
            if (value := getattr(self, name)) < least:
                raise UsageError(f"the certificate's {name} must be at least {least}, got {value}")
        least_share = self.min_certified
        if least_share is not None and not 0.0 <= least_share <= 1.0:  # NaN is outside too
            raise UsageError(f"--min-certified expects a share of 0 to 1, got {least_share}")


def certify_on(
    engine: Engine,
    suite: Suite,
    settings: CertifySettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Certification:
    """Return the certificates of an engine on images of a suite.

    Args:
        engine: open.
        suite: its images; one that is there twice counts once.
        settings: how.
        progress: told how many pairs of masks of all are done.

    Raises:
        InputError: a patch larger than the images.
    """
    masks = covering_masks(
        (suite.images.shape[2], suite.images.shape[3]),
        settings.patch_px,
        per_axis=settings.masks_per_axis,
    )
    order = shuffled(suite)
    rows = np.sort(order[suite.distinct[order]][: settings.images])
    return certify(engine.predict, suite.images[rows], suite.labels[rows], masks, progress=progress)


def certification_figures(found: Certification) -> dict[str, Any]:
    """Return it as JSON values: the shape that reports and records have."""
    return {
        "patch_px": found.masks.patch_px,
        "mask_px": list(found.masks.mask_px),
        "masks": len(found.masks),
        "clean": found.clean,
        "masked": found.masked,
        "certified": found.certified,
        "mean_passes": found.mean_passes,
    }
