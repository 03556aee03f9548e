"""The stage "eval --adaptive": one run's network attacked at each bit-width, as records.

The patches found at each bit-width are written to the run's ``patches`` folder and evaluated like
any others, on the exported model where there is one, so that they stand in the main table too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.device.errors import NothingToEvaluate
from deploy.device.files import json_bytes, sha256_of_bytes
from deploy.device.patch_set import PatchSet, write_patch_set
from deploy.device.records import read_records, write_record
from deploy.device.success import attack_success, clean_accuracy
from deploy.engine import open_engine
from eval.adaptive.expectation import raise_draws
from eval.adaptive.record import (
    KIND,
    AdaptiveRecord,
    AttackedModel,
    AttackedPatch,
    Law,
    OnEngine,
    adaptive_from_records,
)
from eval.adaptive.search import Attacked, Searched, search
from eval.adaptive.settings import AdaptiveSettings
from eval.adaptive.victim import Victim, found_random
from eval.attacks.judging import generator_for
from eval.attacks.placement import positions_for
from eval.evaluation import NetworkPredictor, evaluate_model
from eval.evaluation_record import (
    EvaluationRecord,
    ImagesFacts,
    Outcomes,
    share,
    unpack_bits,
)
from eval.measures import outcomes_of, patch_set_digest, share_of
from eval.model_facts import TORCH, model_facts
from eval.patch_run import PATCHES, TRIED_ON
from eval.predictions import predict
from training.data import ImageSet
from training.data.subset import chosen_indices
from training.networks import Network
from training.quantizers import FLOAT
from training.run_folder import RunFolder

ATTACK = "adaptive"
"""Name of the attack in patch files and evaluation records."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveRunSettings:
    """Which images and bit-widths.

    Attributes:
        bit_widths: None takes all that the network has.
        split: "test" for final figures, "holdout" to choose settings.
        images: how many of them; None takes all.
        seed: of the attack.
        engine: a name of ``deploy.engine.ENGINES``, for the exported models.
        random_precision: also attack the network with a bit-width drawn for each answer, from the
            integer ones of ``bit_widths``.
    """

    bit_widths: tuple[int, ...] | None = None
    split: str = "test"
    images: int | None = 500
    seed: int = 0
    engine: str = "onnxruntime"
    random_precision: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    run: RunFolder
    network: Network
    images: ImageSet
    indices: NDArray[np.int64]
    positions: NDArray[np.int64]
    attack: AdaptiveSettings
    settings: AdaptiveRunSettings
    provenance: Mapping[str, Any]

    @property
    def chosen(self) -> NDArray[np.uint8]:
        return self.images.images[self.indices]

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.images.labels[self.indices]

    def facts(self) -> ImagesFacts:
        images = self.images
        return ImagesFacts(
            name=images.name,
            split=images.split,
            digest=images.digest,
            n=len(images),
            classes=list(images.classes),
        )


def run_adaptive(
    run: RunFolder,
    data: Path | None,
    attack: AdaptiveSettings,
    settings: AdaptiveRunSettings,
    provenance: Mapping[str, Any],
    known_patches: Sequence[PatchSet] = (),
) -> list[AdaptiveRecord]:
    """Attack the run's network at each bit-width; then the worst case over them.

    Records that exist are not made again; a bit-width that was interrupted continues at its stage.

    Args:
        known_patches: patch sets to start from besides; those that are not per image, of this size,
            place and split for all the images are passed over.

    Raises:
        InputError: a bit-width that the network lacks, more images than there are, a patch larger
            than the image.
        NothingToEvaluate: the network has no image right at some bit-width.
    """
    images = run.images(data, settings.split)
    indices = chosen_indices(len(images), settings.images)
    size = attack.size_px
    height, width = images.images.shape[2:]
    positions = positions_for(
        attack.placement,
        len(indices),
        (height, width),
        (size, size),
        generator_for(settings.seed, "places"),
    )
    network = run.load_network()
    cast(Any, network).to(memory_format=torch.channels_last)
    network.requires_grad_(False)
    task = _Task(
        run=run,
        network=network,
        images=images,
        indices=indices,
        positions=positions.numpy(),
        attack=attack,
        settings=settings,
        provenance=provenance,
    )
    widths = run.chosen_bit_widths(settings.bit_widths)
    known = {
        record["key"]: record
        for record in (adaptive_from_records(read_records(run.records)) if _there(run) else [])
    }
    transferred = _fitting(task, known_patches)
    made: list[tuple[AdaptiveRecord, EvaluationRecord]] = []
    for bits in widths:
        patches, record = _at(task, bits, transferred, known)
        made.append(record)
        transferred[f"patches of {bits} bits"] = patches
    records = [record for record, _ in made]
    if len(made) > 1:
        records.append(_worst(task, made, known))
    integers = tuple(bits for bits in widths if bits != FLOAT)
    if settings.random_precision and len(integers) > 1:
        records.append(_random_precision(task, integers, transferred, known))
    return records


def _there(run: RunFolder) -> bool:
    return run.records.is_dir()


def _fitting(task: _Task, patch_sets: Sequence[PatchSet]) -> dict[str, NDArray[np.uint8]]:
    fitting = {}
    for patch_set in patch_sets:
        facts = patch_set.provenance.get(TRIED_ON) or {}
        places = dict(
            zip(patch_set.image_indices.tolist(), range(len(patch_set.positions)), strict=True)
        )
        if (
            patch_set.kind != "per-image"
            or patch_set.patch.shape[2:] != (task.attack.size_px,) * 2
            or not patch_set.mask.all()
            or facts.get("digest") != task.images.digest
            or any(index not in places for index in task.indices.tolist())
        ):
            continue
        rows = [places[index] for index in task.indices.tolist()]
        if np.array_equal(patch_set.positions[rows], task.positions):
            fitting[patch_set.name] = patch_set.patch[rows]
    return fitting


def _at(
    task: _Task,
    bits: int,
    transferred: Mapping[str, NDArray[np.uint8]],
    known: dict[str, AdaptiveRecord],
) -> tuple[NDArray[np.uint8], tuple[AdaptiveRecord, EvaluationRecord]]:
    randomness = found_random(task.network, torch.from_numpy(task.chosen[:32]).float(), bits)
    victim = Victim(network=task.network, bit_widths=(bits,), noisy=randomness.logits)
    searched, draws, enough, key = _attacked(task, victim, f"{bits} bits", transferred)
    patch_set = _patch_set(task, searched, (bits,))
    evaluation = _evaluated(task, patch_set, bits)
    if key not in known:
        clean = predict(task.network, task.chosen, bits)
        patched = predict(task.network, patch_set.paste_on(task.chosen), bits)
        success = attack_success(clean, patched, task.labels)
        record = AdaptiveRecord(
            key=key,
            model=_model(task, (bits,)),
            law="fixed",
            images=task.facts(),
            patch=_patch(task, [patch_set_digest(patch_set)]),
            settings=task.attack.as_record(),
            seed=task.settings.seed,
            clean_accuracy=share_of(clean_accuracy(clean, task.labels)),
            asr=share_of(success),
            on_engine=_on_engine([evaluation]),
            stages=searched.stages,
            randomness=asdict(randomness),
            draws=draws,
            draws_enough=enough,
            outcomes=outcomes_of(
                success, clean == task.labels, patched == task.labels, task.indices
            ),
        )
        write_record(task.run.records, KIND, record, task.provenance)
        known[key] = record
    return searched.patch, (known[key], evaluation)


def _attacked(
    task: _Task,
    victim: Victim,
    name: str,
    transferred: Mapping[str, NDArray[np.uint8]],
) -> tuple[Searched, list[Any], bool, str]:
    """The search over the images that the victim has right; patches for the others stay black."""
    clean = victim.predict(task.chosen, generator_for(task.settings.seed, f"clean {name}"))
    rows = np.flatnonzero(clean == task.labels)
    if not len(rows):
        raise NothingToEvaluate(
            f"{task.run.path} at {name} has none of {len(task.indices)} images right without a "
            "patch: there is nothing to attack"
        )
    attacked = Attacked(
        images=task.chosen[rows], labels=task.labels[rows], positions=task.positions[rows]
    )
    about = [
        *(task.run.checkpoint_sha256, name, task.attack.as_record(), asdict(task.settings)),
        *(task.images.digest, task.indices.tolist(), sorted(transferred)),
    ]
    key = sha256_of_bytes(json_bytes(about))
    folder = task.run.path / PATCHES

    def run(draws: int) -> Searched:
        return search(
            victim,
            attacked,
            task.attack,
            seed=task.settings.seed,
            draws=draws,
            transferred={name: patch[rows] for name, patch in transferred.items()},
            resume_from=folder / f".adaptive-{key[:8]}-{draws}.search.npz",
            title=f"adaptive, {task.run.network_name} {name}"
            + (f", {draws} draws" if victim.random else ""),
        )

    folder.mkdir(parents=True, exist_ok=True)
    fresh = generator_for(task.settings.seed, f"fresh {name}")
    searched, draws, enough = raise_draws(run, victim, attacked, task.attack, fresh)
    patch = np.zeros((len(task.indices), *searched.patch.shape[1:]), np.uint8)
    won = np.zeros(len(task.indices), np.bool_)
    patch[rows], won[rows] = searched.patch, searched.won
    whole = Searched(patch=patch, won=won, stages=searched.stages)
    return whole, draws, enough, key


def _patch_set(task: _Task, searched: Searched, widths: tuple[int, ...]) -> PatchSet:
    attack, run = task.attack, task.run
    bits = "-".join(map(str, widths))
    patch_set = PatchSet(
        name=f"{ATTACK}-per-image-{attack.size_px}px-{attack.placement}-from-{bits}bit",
        kind="per-image",
        patch=searched.patch,
        mask=np.ones((attack.size_px, attack.size_px), np.bool_),
        positions=task.positions.astype(np.int32),
        image_indices=task.indices,
        provenance={
            "attack": ATTACK,
            "settings": {**attack.as_record(), "shape": "square"},
            "seed": task.settings.seed,
            "made_on": task.settings.split,
            "source": {
                "network": run.network_name,
                "defense": run.defense,
                "checkpoint_sha256": run.checkpoint_sha256,
                "seed": run.seed,
                "bit_widths": list(widths),
            },
            TRIED_ON: {
                "name": task.images.name,
                "split": task.images.split,
                "digest": task.images.digest,
            },
            "run": dict(task.provenance),
        },
    )
    short = patch_set_digest(patch_set)[:8]
    write_patch_set(run.path / PATCHES / f"{patch_set.name}-{short}.npz", patch_set)
    return patch_set


def _evaluated(task: _Task, patch_set: PatchSet, bits: int) -> EvaluationRecord:
    run, settings = task.run, task.settings
    file = run.model_file(bits, settings.engine)
    exported = file.is_file()
    opened = open_engine(settings.engine, file) if exported else nullcontext()
    with opened as engine:
        name = TORCH if engine is None else engine.name
        model = model_facts(run, bits, file if exported else None, name)
        predictor = NetworkPredictor(network=task.network, bit_width=bits)
        (record,) = evaluate_model(
            predictor if engine is None else engine,
            task.images,
            [patch_set],
            model=model,
            records=run.records,
            provenance=task.provenance,
        )
    return record


def _on_engine(evaluations: Sequence[EvaluationRecord]) -> OnEngine | None:
    """The evaluations on one engine as one: over the images right in all, won in any."""
    models = [evaluation["model"] for evaluation in evaluations]
    if any(model["engine"] == "torch" for model in models):
        return None
    n = evaluations[0]["outcomes"]["n"]
    eligible, won = np.ones(n, np.bool_), np.zeros(n, np.bool_)
    for evaluation in evaluations:
        eligible &= unpack_bits(evaluation["outcomes"]["eligible"], n)
        won |= unpack_bits(evaluation["outcomes"]["success"], n)
    return OnEngine(
        engine=models[0]["engine"],
        engine_version=models[0]["engine_version"],
        file_sha256=[model["file_sha256"] for model in models],
        asr=share(int((eligible & won).sum()), int(eligible.sum())),
    )


def _worst(
    task: _Task,
    made: Sequence[tuple[AdaptiveRecord, EvaluationRecord]],
    known: dict[str, AdaptiveRecord],
) -> AdaptiveRecord:
    """Per image the worst bit-width, over the images that every bit-width has right."""
    key = sha256_of_bytes(json_bytes(["worst", *(record["key"] for record, _ in made)]))
    if key in known:
        return known[key]
    n = len(task.indices)
    flags = {
        field: np.stack([unpack_bits(record["outcomes"][field], n) for record, _ in made])
        for field in ("eligible", "success", "clean_correct", "patched_correct")
    }
    eligible = np.all(flags["eligible"], axis=0)
    won = np.any(flags["success"], axis=0) & eligible
    clean = np.all(flags["clean_correct"], axis=0)
    # As an attack on one network whose answer is right where every bit-width's is.
    wrong = (task.labels + 1) % len(task.images.classes)
    success = attack_success(
        np.where(clean, task.labels, wrong), np.where(won, wrong, task.labels), task.labels
    )
    first = made[0][0]
    widths = tuple(record["model"]["bit_widths"][0] for record, _ in made)
    patched = np.all(flags["patched_correct"], axis=0)
    outcomes: Outcomes = outcomes_of(success, clean, patched, task.indices)
    record = AdaptiveRecord(
        key=key,
        model=_model(task, widths),
        law="worst",
        images=first["images"],
        patch=_patch(task, [r["patch"]["sha256"][0] for r, _ in made]),
        settings=first["settings"],
        seed=first["seed"],
        clean_accuracy=share(int(clean.sum()), n),
        asr=share(int(won.sum()), int(eligible.sum())),
        on_engine=_on_engine([evaluation for _, evaluation in made]),
        stages=[],
        randomness=None,
        draws=[],
        draws_enough=True,
        outcomes=outcomes,
    )
    write_record(task.run.records, KIND, record, task.provenance)
    return record


def _random_precision(
    task: _Task,
    widths: tuple[int, ...],
    transferred: Mapping[str, NDArray[np.uint8]],
    known: dict[str, AdaptiveRecord],
) -> AdaptiveRecord:
    victim = Victim(network=task.network, bit_widths=widths)
    name = f"random precision of {', '.join(map(str, widths))} bits"
    searched, draws, enough, key = _attacked(task, victim, name, transferred)
    if key in known:
        return known[key]
    patch_set = _patch_set(task, searched, widths)
    # A fresh draw for each image and answer, with and without the patch.
    scored = generator_for(task.settings.seed, f"scored {name}")
    clean = victim.predict(task.chosen, scored)
    patched = victim.predict(patch_set.paste_on(task.chosen), scored)
    success = attack_success(clean, patched, task.labels)
    law: Law = "random"
    record = AdaptiveRecord(
        key=key,
        model=_model(task, widths),
        law=law,
        images=task.facts(),
        patch=_patch(task, [patch_set_digest(patch_set)]),
        settings=task.attack.as_record(),
        seed=task.settings.seed,
        clean_accuracy=share_of(clean_accuracy(clean, task.labels)),
        asr=share_of(success),
        on_engine=None,
        stages=searched.stages,
        randomness={"logits": True, "gradients": True},
        draws=draws,
        draws_enough=enough,
        outcomes=outcomes_of(success, clean == task.labels, patched == task.labels, task.indices),
    )
    write_record(task.run.records, KIND, record, task.provenance)
    return record


def _model(task: _Task, widths: tuple[int, ...]) -> AttackedModel:
    return AttackedModel(
        network=task.run.network_name,
        defense=task.run.defense,
        checkpoint_sha256=task.run.checkpoint_sha256,
        bit_widths=list(widths),
    )


def _patch(task: _Task, digests: list[str]) -> AttackedPatch:
    size = task.attack.size_px
    height, width = task.images.images.shape[2:]
    return AttackedPatch(
        kind="per-image",
        size_px=size,
        area_px=size * size,
        area_share=size * size / (height * width),
        placement=task.attack.placement,
        sha256=digests,
    )
