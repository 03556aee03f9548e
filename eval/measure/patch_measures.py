"""The effect of a patch on a model: pure functions of prediction arrays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from deploy.core.errors import NothingToEvaluate
from deploy.core.files import sha256_of_bytes
from deploy.core.npz import npz_bytes
from deploy.core.outcomes import Outcomes, outcomes_record
from deploy.core.patch_set import PatchSet
from deploy.core.share import Share
from deploy.core.success import (
    accuracy,
    attack_success,
    attack_success_over_all_images,
)
from eval.measure.evaluation_record import (
    DriftFacts,
    FloorFacts,
    PatchFacts,
    SourceFacts,
)

Classes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class CommonSet:
    """The images of a split that every compared model classifies correctly; ``member``: bool N."""

    models: tuple[str, ...]
    member: NDArray[np.bool_]


def common_set(predictions: Sequence[tuple[str, Classes]], labels: Classes) -> CommonSet:
    """The images that all models classify correctly, from each one's name and clean predictions,
    int64 N; two models may have the same name."""
    member = np.ones(labels.shape, dtype=np.bool_)
    for _, classes in predictions:
        member &= classes == labels
    return CommonSet(models=tuple(name for name, _ in predictions), member=member)


class PatchMeasures(TypedDict):
    """The part of a record that follows from predictions."""

    clean_accuracy_patched_images: Share
    robust_accuracy: Share
    asr: Share
    asr_common: Share | None
    asr_all_images: Share
    floor: FloorFacts
    outcomes: Outcomes


def evaluate_patch(
    *,
    clean: Classes,
    patched: Classes,
    floor: Classes,
    floor_seed: int,
    labels: Classes,
    image_indices: NDArray[np.int64],
    target: int | None,
    common: NDArray[np.bool_] | None = None,
) -> PatchMeasures:
    """The effect of a patch set on one model, from predictions on the images of that set.

    Args:
        clean, patched, floor, labels: int64 N, classes without the patch, with it, with random
            noise of the same size in the same places, and the true ones.
        image_indices: int64 N, indices of the images within their split.
        common: bool N, the images that all compared models classify correctly.

    Raises:
        NothingToEvaluate: no image counts for the ASR.
        InputError: arrays of different lengths.
    """
    success = attack_success(clean, patched, labels, target)
    asr_common = None
    if common is not None:
        with suppress(NothingToEvaluate):
            asr_common = attack_success(clean, patched, labels, target, also=common).share
    return PatchMeasures(
        clean_accuracy_patched_images=accuracy(clean, labels),
        robust_accuracy=accuracy(patched, labels),
        asr=success.share,
        asr_common=asr_common,
        asr_all_images=attack_success_over_all_images(clean, patched, target).share,
        floor=FloorFacts(asr=attack_success(clean, floor, labels, target).share, seed=floor_seed),
        outcomes=outcomes_record(
            image_indices,
            clean_correct=clean == labels,
            patched_correct=patched == labels,
            eligible=success.eligible,
            success=success.success,
        ),
    )


def drift(
    *,
    engine_clean: Classes,
    engine_patched: Classes,
    network_clean: Classes,
    network_patched: Classes,
    labels: Classes,
    image_indices: NDArray[np.int64],
    target: int | None,
) -> DriftFacts:
    """The engine against the fake-quantized network, from the predictions of both.

    Args:
        engine_clean, network_clean: int64 M, over *all* images of the split.
        engine_patched, network_patched: int64 N, over the images of the patch set.
        labels: int64 M.
        image_indices: int64 N, which of the M images are in the patch set.

    Raises:
        NothingToEvaluate: no image counts for one of the two ASRs.
    """
    own = labels[image_indices]
    on_engine = attack_success(engine_clean[image_indices], engine_patched, own, target).share
    on_network = attack_success(network_clean[image_indices], network_patched, own, target).share
    return DriftFacts(
        asr_points=100.0 * (on_engine["value"] - on_network["value"]),
        fake_quantized_asr=on_network,
        fake_quantized_clean=accuracy(network_clean, labels),
        clean_agreement=accuracy(engine_clean, network_clean),
        patched_agreement=accuracy(engine_patched, network_patched),
        clean_flips=np.flatnonzero(engine_clean != network_clean).tolist(),
        patched_flips=image_indices[engine_patched != network_patched].tolist(),
    )


def patch_facts(patch_set: PatchSet, image_size: Sequence[int]) -> PatchFacts:
    """The facts of a patch set on images of (H, W) pixels for a record; facts that its origin does
    not state are null."""
    made = patch_set.origin
    settings, source = made.settings, made.source or {}
    about = SourceFacts(
        network=source.get("network"),
        defense=source.get("defense"),
        checkpoint_sha256=source.get("checkpoint_sha256"),
        bit_widths=source.get("bit_widths"),
        seed=source.get("seed"),
    )
    members = [one["checkpoint_sha256"] for one in source.get("members", [])]
    if members:
        about["members"] = members
    return PatchFacts(
        name=patch_set.name,
        attack=made.attack,
        kind=patch_set.kind,
        shape=settings.get("shape"),
        size_px=list(patch_set.size_px),
        area_px=patch_set.area_px,
        area_share=patch_set.area_share(image_size[0], image_size[1]),
        placement=settings.get("placement"),
        target=patch_set.target,
        steps=settings.get("steps"),
        restarts=settings.get("restarts"),
        seed=made.seed,
        made_on=made.made_on,
        settings=dict(settings),
        source=about,
        sha256=patch_set_digest(patch_set),
    )


def patch_set_digest(patch_set: PatchSet) -> str:
    """SHA-256 of the patch set's arrays, the same as of its npz file."""
    names = ("patch", "mask", "positions", "image_indices")
    return sha256_of_bytes(npz_bytes({name: getattr(patch_set, name) for name in names}))
