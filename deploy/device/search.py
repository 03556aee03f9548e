"""A search on the device: patches made against this engine itself, in addition to the bundle's.

A patch from another network may fail because the model resists, or because it did not transfer.
The search attacks the engine itself and so distinguishes the two: its patches need no transfer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.engine_protocol import Engine
from ..core.errors import InputError, NothingToEvaluate, UsageError
from ..core.model_engine import run_all
from ..core.patch_origin import PatchOrigin
from ..core.patch_set import PatchSet, random_floor
from ..core.share import Share
from ..core.sparse_rs import Location, SparseRsSettings, search_per_image
from ..core.success import AttackSuccess, attack_success
from .measuring import UNSEEN, Measurement, seen, shuffled
from .suite import Suite

Answers = Literal["logits", "classes"]
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of a search on the device.

    Attributes:
        queries: per image.
        size_px: side of the patch; None takes that of the first gated patch's box.
        images: largest number of images; the same ones for the same bundle and model.
        answers: the answers of the engine that the search may use.
        location: "random" searches for the place too, "fixed" keeps the image's centre.
        target: class to cause, or None.
        seed: of the search.
        max_asr: the ASR of the found patches must be below it, 0…1; None gates nothing.

    Raises:
        UsageError: a value out of its range.
    """

    queries: int = 1000
    size_px: int | None = None
    images: int = 100
    answers: Answers = "logits"
    location: Location = "random"
    target: int | None = None
    seed: int = 0
    max_asr: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("queries", 1), ("size_px", 1), ("images", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"the search's {name} must be at least {least}, got {value}")
        if self.max_asr is not None and not 0.0 <= self.max_asr <= 1.0:  # NaN is outside too
            raise UsageError(f"the search's max_asr expects a share of 0 to 1, got {self.max_asr}")


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """The result of a search on the device.

    Attributes:
        success: over the searched images, all of which this engine classifies correctly.
        floor: uniform noise of the same size in the places that were found; None where it does
            not count.
        transferred: name of the bundle's patch with the highest ASR on the same images, and that
            ASR; None where no patch is for them.
        queries: int64 N.
        patch_set: the patches.
        settings: with the size that was used.
    """

    success: AttackSuccess
    floor: AttackSuccess | None
    transferred: tuple[str, Share] | None
    queries: NDArray[np.int64]
    patch_set: PatchSet
    settings: SearchSettings

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        won = self.success.success
        best = self.transferred
        return {
            "attack": "sparse-rs",
            "answers": self.settings.answers,
            "queries": self.settings.queries,
            "size_px": self.settings.size_px,
            "location": self.settings.location,
            "target": self.settings.target,
            "seed": self.settings.seed,
            "asr": self.success.share,
            "random_floor": None if self.floor is None else self.floor.share,
            "median_queries_of_wins": float(np.median(self.queries[won])) if won.any() else None,
            "best_brought": None if best is None else {"name": best[0], "asr": best[1]},
            "won": np.sort(self.patch_set.image_indices[won])[:1000].tolist(),
        }


def search_on(
    engine: Engine,
    suite: Suite,
    measurement: Measurement,
    settings: SearchSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SearchResult:
    """Search for a patch per image, on distinct images that the engine classifies correctly.

    Args:
        engine: open.
        suite: its images; its first gated patch gives the size where the settings have none.
        measurement: the engine's classes of the images without a patch.
        settings: of the search.
        progress: called with the number of finished image-queries.

    Raises:
        NothingToEvaluate: the engine classifies no image that counts correctly.
        InputError: a patch larger than the images, a target that is not a class.
    """
    size = settings.size_px or _size_of_first_gated(suite)
    if settings.target is not None and settings.target >= engine.classes:
        raise InputError(
            f"the search's target {settings.target} is not a class; expected 0…{engine.classes - 1}"
        )
    counts = (measurement.clean != UNSEEN) & (measurement.clean == suite.labels) & suite.distinct
    if settings.target is not None:
        counts &= suite.labels != settings.target
    order = shuffled(suite)
    rows = np.sort(order[counts[order]][: settings.images])
    if len(rows) == 0:
        raise NothingToEvaluate(
            "the search has no image: the engine classifies none of the images that count correctly"
        )
    images, labels = suite.images[rows], suite.labels[rows]
    rng = np.random.default_rng(settings.seed)
    centre = np.array([(side - size) // 2 for side in images.shape[2:]])
    found = search_per_image(
        _asking(engine, settings.answers),
        images,
        labels,
        SparseRsSettings(
            size_px=size,
            queries=settings.queries,
            target=settings.target,
            location=settings.location,
        ),
        rng,
        positions=np.tile(centre, (len(rows), 1)) if settings.location == "fixed" else None,
        progress=progress,
    )
    mask = np.ones((size, size), dtype=np.bool_)
    patch_set = PatchSet(
        name=f"sparse-rs-per-image-{size}px-on-device",
        kind="per-image",
        patch=found.patch,
        mask=mask,
        positions=found.positions,
        image_indices=suite.indices[rows],
        target=settings.target,
        origin=PatchOrigin(
            attack="sparse-rs", seed=settings.seed, more={"queries": settings.queries}
        ),
    )
    # The result is the engine's prediction on the final bytes, not what the search recorded.
    clean = measurement.clean[rows]
    patched = engine.predict(patch_set.paste_on(images))
    noisy = engine.predict(random_floor(patch_set, rng).paste_on(images))
    return SearchResult(
        success=attack_success(clean, patched, labels, settings.target),
        floor=attack_success(clean, noisy, labels, settings.target),
        transferred=_best_brought(suite, measurement, rows, settings.target),
        queries=found.queries,
        patch_set=patch_set,
        settings=replace(settings, size_px=size),
    )


def _asking(engine: Engine, answers: Answers) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    if answers == "classes":
        return lambda images: engine.predict(images)
    return lambda images: run_all(engine, images, _BATCH)


def _size_of_first_gated(suite: Suite) -> int:
    gated = [patch for patch in suite.patches if patch.facts.gated] or list(suite.patches)
    height, width = gated[0].patch_set.size_px
    return int(max(height, width))


def _best_brought(
    suite: Suite, measurement: Measurement, rows: NDArray[np.int64], target: int | None
) -> tuple[str, Share] | None:
    best: tuple[str, Share] | None = None
    for number, patch in enumerate(suite.patches):
        own_rows, which = seen(measurement, suite, number)
        among = np.isin(own_rows, rows)
        if patch.facts.target != target or not among.any():
            continue
        try:
            success = attack_success(
                measurement.clean[own_rows[among]],
                measurement.patched[number][which[among]],
                suite.labels[own_rows[among]],
                target,
            )
        except NothingToEvaluate:
            continue
        if best is None or success.share["value"] > best[1]["value"]:
            best = patch.facts.name, success.share
    return best


def transfer_failed(result: SearchResult) -> bool:
    """Whether the search succeeds clearly more often than any bundled patch: intervals that do not
    overlap."""
    if result.transferred is None:
        return False
    return result.success.share["low"] > result.transferred[1]["high"]
