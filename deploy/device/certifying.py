"""Certificates on the device: the images on which no patch of a size can win against this engine.

Unlike a search or a transferred patch, this needs no attack: its result holds for every patch of
the size, known or not (:mod:`..core.double_masking`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.double_masking import Certification, attack_masked, certify, covering_masks
from ..core.engine_protocol import Engine
from ..core.errors import NothingToEvaluate, UsageError
from ..core.share import Share
from .measuring import shuffled
from .suite import Suite


@dataclass(frozen=True, kw_only=True)
class CertifySettings:
    """Settings of certification on the device.

    Attributes:
        patch_px: side of the patches that must have no effect.
        images: largest number of images, all different; the same ones for the same bundle and
            model.
        masks_per_axis: masks along a side; all pairs of masks are evaluated.
        min_certified: the share of certified images must be above it, 0…1; None gates nothing.

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


@dataclass(frozen=True, kw_only=True, eq=False)
class CertifiedHere:
    """What was certified, and the success of the bundle's patches against masked inference.

    Attributes:
        certification: of the images that were certified.
        asr: by patch, over those of them that the patch is for and that masked inference classifies
            correctly without it; a patch that is larger than the certificate's, or has no such
            image, is left out.
    """

    certification: Certification
    asr: Mapping[str, Share]

    @property
    def worst(self) -> tuple[str, Share] | None:
        """The patch that wins most; None where none was tried."""
        return max(self.asr.items(), key=lambda one: one[1]["value"], default=None)


def certify_on(
    engine: Engine,
    suite: Suite,
    settings: CertifySettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CertifiedHere:
    """Return the certificates of an engine on images of a suite, and try its patches on them.

    Args:
        engine: open.
        suite: its images; repeated images count once.
        settings: of the certification.
        progress: called with the number of finished steps.

    Raises:
        InputError: a patch larger than the images, or one that wins on a certified image.
    """
    masks = covering_masks(
        (suite.images.shape[2], suite.images.shape[3]),
        settings.patch_px,
        per_axis=settings.masks_per_axis,
    )
    order = shuffled(suite)
    rows = np.sort(order[suite.distinct[order]][: settings.images])
    fitting = [
        (patch, which)
        for patch in suite.patches
        if max(patch.patch_set.size_px) <= settings.patch_px
        and len(which := np.isin(patch.rows, rows).nonzero()[0])
    ]
    done, total = 0, masks.steps + 2 * len(masks) * len(fitting)

    def stepped(count: int = 1) -> None:
        nonlocal done
        done += count
        progress(done, total)

    found = certify(
        engine.predict,
        suite.images[rows],
        suite.labels[rows],
        masks,
        progress=lambda reached, _: stepped(reached - done),
    )
    asr = {}
    for patch, which in fitting:
        own = patch.rows[which]
        # Without an image to win on there is no rate; it is not 0.
        with suppress(NothingToEvaluate):
            asr[patch.facts.name] = attack_masked(
                engine.predict,
                found,
                np.searchsorted(rows, own),
                patch.paste(suite.images, which),
                suite.labels[own],
                patch.patch_set.target,
                stepped=stepped,
            ).share
    return CertifiedHere(certification=found, asr=asr)


def certification_figures(certified: CertifiedHere) -> dict[str, Any]:
    """Return it as JSON values: the shape that reports and records have."""
    found = certified.certification
    return {
        "patch_px": found.masks.patch_px,
        "mask_px": list(found.masks.mask_px),
        "masks": len(found.masks),
        "clean": found.clean,
        "masked": found.masked,
        "certified": found.certified,
        "mean_passes": found.mean_passes,
        "attacks": [{"patch": name, "asr": asr} for name, asr in certified.asr.items()],
    }
