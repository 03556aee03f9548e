"""The record of each bit-width law: one known, the worst of several, or one drawn per answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deploy.core.files import sha256_of_bytes
from deploy.core.outcomes import outcomes_record, unpack_bits
from deploy.core.patch_set import PatchSet
from deploy.core.share import share
from deploy.core.strict_json import json_bytes
from deploy.core.success import accuracy, attack_success
from eval.attacks.adaptive.straight_through import attacked
from eval.attacks.adaptive.victim import Victim, found_random
from eval.attacks.judging import generator_for
from eval.measure.adaptive.adaptive_record import AdaptiveRecord, OnEngine
from eval.measure.adaptive.task import Found, Task, Transferred
from eval.measure.evaluation_record import EvaluationRecord, images_facts
from eval.measure.patch_measures import Classes, patch_set_digest
from eval.measure.subject import TORCH


@dataclass(frozen=True, kw_only=True, eq=False)
class AtBitWidth:
    """The result at one bit-width, and the same patches on the engine that will be deployed."""

    record: AdaptiveRecord
    patches: PatchSet
    evaluation: EvaluationRecord


def at_fixed(task: Task, bits: int, transferred: Transferred) -> AtBitWidth:
    """The network at one bit-width, which the attacker knows.

    Remaining randomness of the network under attack, in answers or in gradients, is averaged over.
    """
    name = f"{bits} bits"
    key = task.key_with_file(task.key(name, transferred), bits)
    known = task.known.get(key)
    patches = None if known is None else task.written_patches(known)
    if known is not None and patches is not None:
        return AtBitWidth(record=known, patches=patches, evaluation=task.evaluate(patches, bits))
    some = torch.from_numpy(task.chosen[:32]).float()
    randomness = found_random(task.network, some, bits)
    with attacked(task.network, "clipped"):
        left = found_random(task.network, some, bits)
    victim = Victim(network=task.network, bit_widths=(bits,), noisy=any(left.values()))
    found = task.search(victim, name, transferred)
    patches = task.write_patches(found.searched.patch, (bits,))
    evaluation = task.evaluate(patches, bits)
    if known is None:
        known = task.keep(
            _scored(task, victim, name, found, patches)
            | {"key": key, "randomness": randomness, "on_engine": _on_engine([evaluation])}
        )
    return AtBitWidth(record=known, patches=patches, evaluation=evaluation)


def at_random(task: Task, widths: tuple[int, ...], transferred: Transferred) -> AdaptiveRecord:
    """A bit-width drawn for each answer, as in DWQ's inference; scored on fresh draws."""
    name = f"random precision of {', '.join(map(str, widths))} bits"
    key = task.key(name, transferred)
    if key in task.known:
        return task.known[key]
    victim = Victim(network=task.network, bit_widths=widths)
    found = task.search(victim, name, transferred)
    patches = task.write_patches(found.searched.patch, widths)
    return task.keep(_scored(task, victim, name, found, patches))


def at_worst(task: Task, made: Sequence[AtBitWidth]) -> AdaptiveRecord:
    """Per image the worst bit-width, over the images that are right at every bit-width."""
    records = [at.record for at in made]
    key = sha256_of_bytes(json_bytes(["worst", *(record["key"] for record in records)]))
    if key in task.known:
        return task.known[key]
    n = len(task.indices)
    outcomes: list[dict[str, Any]] = [dict(record["outcomes"]) for record in records]
    flags = {
        field: np.stack([unpack_bits(outcome[field], n) for outcome in outcomes])
        for field in ("eligible", "success", "clean_correct", "patched_correct")
    }
    eligible = np.all(flags["eligible"], axis=0)
    won = np.any(flags["success"], axis=0) & eligible
    clean = np.all(flags["clean_correct"], axis=0)
    patched = np.all(flags["patched_correct"], axis=0)
    # As an attack on one network that is right where every bit-width is right.
    wrong = (task.labels + 1) % len(task.images.classes)
    success = attack_success(
        np.where(clean, task.labels, wrong), np.where(won, wrong, task.labels), task.labels
    )
    first = records[0]
    return task.keep(
        AdaptiveRecord(
            key=key,
            model=task.model(tuple(record["model"]["bit_widths"][0] for record in records)),
            law="worst",
            images=first["images"],
            patch=task.patch([record["patch"]["sha256"][0] for record in records]),
            settings=first["settings"],
            seed=first["seed"],
            clean_accuracy=share(int(clean.sum()), n),
            asr=share(int(won.sum()), int(eligible.sum())),
            on_engine=_on_engine([at.evaluation for at in made]),
            stages=[],
            randomness=None,
            draws=[],
            draws_enough=True,
            outcomes=outcomes_record(
                task.indices,
                clean_correct=clean,
                patched_correct=patched,
                eligible=success.eligible,
                success=success.success,
            ),
        )
    )


def _scored(
    task: Task, victim: Victim, name: str, found: Found, patches: PatchSet
) -> AdaptiveRecord:
    """The result on fresh answers with the patch, over the images that are right in the draw of the
    search."""
    draw = generator_for(task.settings.seed, f"scored {name}")
    clean = found.clean
    patched: Classes = victim.predict(patches.paste_on(task.chosen), draw)
    success = attack_success(clean, patched, task.labels)
    several = len(victim.bit_widths) > 1
    return AdaptiveRecord(
        key=found.key,
        model=task.model(victim.bit_widths),
        law="random" if several else "fixed",
        images=images_facts(task.images),
        patch=task.patch([patch_set_digest(patches)]),
        settings=task.attack.as_record(),
        seed=task.settings.seed,
        clean_accuracy=accuracy(clean, task.labels),
        asr=success.share,
        on_engine=None,
        stages=found.searched.stages,
        randomness={"logits": several, "gradients": several},
        draws=found.draws,
        draws_enough=found.draws_enough,
        outcomes=outcomes_record(
            task.indices,
            clean_correct=clean == task.labels,
            patched_correct=patched == task.labels,
            eligible=success.eligible,
            success=success.success,
        ),
    )


def _on_engine(evaluations: Sequence[EvaluationRecord]) -> OnEngine | None:
    """The evaluations on one engine combined: over the images right in all, won in any."""
    models = [evaluation["model"] for evaluation in evaluations]
    if any(model["engine"] == TORCH for model in models):
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
