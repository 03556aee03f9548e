"""Evaluate a model on its engine against patch sets, one record each.

The driver gets predictions from the engine, and from the fake-quantized network where there is one;
``eval.measure.patch_measures`` turns them into figures. Existing records are not made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.files import sha256_of_bytes
from deploy.core.latency import Latency
from deploy.core.patch_set import PatchSet, random_floor
from deploy.core.records import write_record
from deploy.core.strict_json import json_bytes
from deploy.core.success import accuracy
from eval.attacks.predictions import predict
from eval.measure.evaluation_record import (
    KIND,
    DriftFacts,
    EvaluationRecord,
    LatencyFacts,
    ModelFacts,
    images_facts,
)
from eval.measure.patch_images import require_images
from eval.measure.patch_measures import (
    Classes,
    CommonSet,
    drift,
    evaluate_patch,
    patch_facts,
    patch_set_digest,
)
from eval.measure.subject import Predictor
from training.data import ImageSet
from training.prediction import SwitchableNetwork
from training.progress import Progress
from training.record_types import payloads_by_key


def evaluate_model(
    engine: Predictor,
    images: ImageSet,
    patch_sets: Sequence[PatchSet],
    *,
    model: ModelFacts,
    records: Path,
    provenance: Mapping[str, Any],
    network: SwitchableNetwork | None = None,
    clean: Classes | None = None,
    common: CommonSet | None = None,
    latency: Callable[[], Latency | None] | None = None,
    floor_seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> list[EvaluationRecord]:
    """Evaluate one open model against patch sets; one record each, written when it is finished.

    An existing record for the same model file, engine, patch set, images and common set is read
    and not made again, so an interrupted evaluation continues where it stopped. (Latency is not
    part of that: its first measurement is kept.)

    Args:
        images: the split that the patch sets' ``image_indices`` refer to.
        model: what ``engine`` runs; ``network`` runs at ``model["bit_width"]``.
        records: folder of the records, made if missing.
        network: the fake-quantized network, for the drift; None leaves the drift null.
        clean: int64 N, the engine's classes of all images, where known; None runs the engine.
        common: the common set, for ``asr_common``; None leaves it null.
        latency: measures the engine's latency; called once, where there is a record to make. None
            leaves it null.
        batch_size: images per call of the engine and the network.

    Returns:
        The records in the order of ``patch_sets``.

    Raises:
        InputError: a patch set does not fit the images (an index or position is outside them), a
            common set has another length, or a record in the folder is damaged.
        NothingToEvaluate: no image counts for the ASR of a patch set, which the message names.
    """
    if common is not None and common.member.shape != (len(images),):
        raise InputError(
            f"The common set has {common.member.shape} flags for {len(images)} images of "
            f"{images.name}, {images.split}."
        )
    for patch_set in patch_sets:
        require_images(patch_set, images)
    known = payloads_by_key(records, KIND, EvaluationRecord)
    keys = [
        _key(model, patch_set, images, common, floor_seed, drifted=network is not None)
        for patch_set in patch_sets
    ]
    todo = [key for key in keys if key not in known]
    if not todo:
        return [known[key] for key in keys]
    bits = model["bit_width"]
    timed = None if latency is None else latency()

    def ask(images: NDArray[np.uint8], known: Classes | None = None) -> _Both:
        """Classes from the engine, unless they are known, and from the network, if there is one."""
        on_engine = engine.predict(images, batch_size) if known is None else known
        if network is None:
            return on_engine, None
        return on_engine, predict(network, images, bits, batch_size=batch_size)

    title = f"{model['network']} {bits} bit, {model['engine']}"
    with Progress(title, len(todo), shown=progress) as bar:
        without = ask(images.images, clean)
        for key, patch_set in zip(keys, patch_sets, strict=True):
            if key in known:
                continue
            own = images.images[patch_set.image_indices]
            noise = random_floor(patch_set, np.random.default_rng(floor_seed))
            patched = ask(patch_set.paste_on(own))
            floor = engine.predict(noise.paste_on(own), batch_size)
            try:
                known[key] = EvaluationRecord(
                    key=key,
                    model=model,
                    patch=patch_facts(patch_set, images.images.shape[2:]),
                    images=images_facts(images),
                    clean_accuracy=accuracy(without[0], images.labels),
                    common_set_of=None if common is None else list(common.models),
                    drift=_drift(without, patched, images, patch_set),
                    latency=None if timed is None else cast(LatencyFacts, timed.as_record()),
                    **evaluate_patch(
                        clean=without[0][patch_set.image_indices],
                        patched=patched[0],
                        floor=floor,
                        floor_seed=floor_seed,
                        labels=images.labels[patch_set.image_indices],
                        image_indices=patch_set.image_indices,
                        target=patch_set.target,
                        common=None if common is None else common.member[patch_set.image_indices],
                    ),
                )
            except NothingToEvaluate as error:
                raise NothingToEvaluate(
                    f"{model['network']} at {bits} bits, {patch_set.name}: {error}"
                ) from error
            write_record(records, KIND, known[key], provenance)
            bar.advance(note=f"{patch_set.name} ASR {known[key]['asr']['value']:.1%}")
    return [known[key] for key in keys]


_Both = tuple[Classes, Classes | None]
"""What the engine predicts, and the network that it came from, where there is one."""


def _drift(
    clean: _Both, patched: _Both, images: ImageSet, patch_set: PatchSet
) -> DriftFacts | None:
    if clean[1] is None or patched[1] is None:
        return None
    return drift(
        engine_clean=clean[0],
        engine_patched=patched[0],
        network_clean=clean[1],
        network_patched=patched[1],
        labels=images.labels,
        image_indices=patch_set.image_indices,
        target=patch_set.target,
    )


def _key(
    model: ModelFacts,
    patch_set: PatchSet,
    images: ImageSet,
    common: CommonSet | None,
    floor_seed: int,
    *,
    drifted: bool,
) -> str:
    # The certificate describes the file, whose hash is already included; a run may be renamed.
    about = ("certificate", "run")
    named = {field: value for field, value in model.items() if field not in about}
    member = None
    if common is not None:
        member = [*common.models, hashlib.sha256(common.member.tobytes()).hexdigest()]
    patch = [patch_set.name, patch_set.target, patch_set_digest(patch_set)]
    facts = [named, patch, images.name, images.split, images.digest, member, floor_seed, drifted]
    return sha256_of_bytes(json_bytes(facts))
