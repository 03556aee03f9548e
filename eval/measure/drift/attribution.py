"""The drift of one patch, step by step: pure functions of each stage's predictions.

Stages form a chain, and two neighbours differ in only one thing. The changes of the ASR from stage
to stage sum to the whole drift, whatever the stages are: each inner stage's ASR is subtracted once
and added once. A step's paired test is over the images that count at both of its ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.share import share_of
from deploy.core.statistics import holm, paired
from deploy.core.success import attack_success
from eval.measure.drift.drift_record import Flip, StageFacts, StepFacts, StepPair
from eval.measure.patch_measures import Classes

NAMED_FLIPS = 1000
"""Images, at most, that a step names; the counts are of all."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class StageOutcome:
    """The outcome of one patch at one stage, image by image.

    Attributes:
        name: of the stage; the step that leads to it has the same name.
        how: one sentence on what ran.
        clean, patched: int64 M, classes without and with the patch; None where a device reported
            only right and wrong.
        clean_correct, patched_correct: bool M.
        eligible: bool M, counts for the ASR.
        success: bool M, the patch won on an eligible image.
        inputs_changed: number of images, clean and patched together, whose bytes differ from those
            at the stage before; None where it has the same inputs by construction.
    """

    name: str
    how: str
    clean: Classes | None
    patched: Classes | None
    clean_correct: Flags
    patched_correct: Flags
    eligible: Flags
    success: Flags
    inputs_changed: int | None = None


def outcome_of(
    name: str,
    how: str,
    *,
    clean: Classes,
    patched: Classes,
    labels: Classes,
    target: int | None,
    inputs_changed: int | None = None,
) -> StageOutcome:
    """Return the outcome of a patch at a stage that predicts classes; all arrays int64 M.

    Raises:
        NothingToEvaluate: no image counts there; the message names the stage.
    """
    try:
        found = attack_success(clean, patched, labels, target)
    except NothingToEvaluate as error:
        raise NothingToEvaluate(f"at the stage {name!r} ({how}): {error}") from error
    return StageOutcome(
        name=name,
        how=how,
        clean=clean,
        patched=patched,
        clean_correct=clean == labels,
        patched_correct=patched == labels,
        eligible=found.eligible,
        success=found.success,
        inputs_changed=inputs_changed,
    )


def stage_facts(stage: StageOutcome) -> StageFacts:
    """Return the figures of a stage.

    Raises:
        NothingToEvaluate: no image counts.
    """
    return StageFacts(
        name=stage.name,
        how=stage.how,
        clean_accuracy=share_of(stage.clean_correct),
        asr=share_of(stage.success[stage.eligible]),
    )


def steps_between(
    stages: Sequence[StageOutcome], indices: NDArray[np.int64], labels: Classes
) -> list[StepFacts]:
    """Return the steps of a chain; their ``asr_points`` sum to the drift.

    Args:
        stages: two or more, of the same M images.
        indices: int64 M, of the images within their split.
        labels: int64 M.

    Raises:
        InputError: fewer than two stages, or stages of different images.
        NothingToEvaluate: no image counts at a stage.
    """
    if len(stages) < 2 or {len(one.eligible) for one in stages} != {len(indices)}:
        raise InputError("expected two or more stages of the same images")
    steps = [_step(before, after, indices, labels) for before, after in pairwise(stages)]
    tested = [step["paired"] for step in steps if step["paired"] is not None]
    for pair, p in zip(tested, holm([one["p"] for one in tested]), strict=True):
        pair["p_holm"] = p
    return steps


def _step(
    before: StageOutcome, after: StageOutcome, indices: NDArray[np.int64], labels: Classes
) -> StepFacts:
    rates = [share_of(one.success[one.eligible])["value"] for one in (before, after)]
    clean_flips, patched_flips = _flipped(before, after)
    either = np.flatnonzero(clean_flips | patched_flips)
    either = either[np.argsort(indices[either], kind="stable")]
    return StepFacts(
        name=after.name,
        asr_points=100.0 * (rates[1] - rates[0]),
        paired=_pair(before, after),
        inputs_changed=after.inputs_changed,
        clean_flips_n=int(clean_flips.sum()),
        patched_flips_n=int(patched_flips.sum()),
        flips_n=len(either),
        flips=[
            _flip(before, after, int(row), indices, labels, (clean_flips, patched_flips))
            for row in either[:NAMED_FLIPS]
        ],
    )


def _flipped(before: StageOutcome, after: StageOutcome) -> tuple[Flags, Flags]:
    if before.clean is None or after.clean is None or before.patched is None:
        # A report has only right or wrong: a change from one wrong class to another is hidden.
        patched = before.patched_correct != after.patched_correct
        return before.clean_correct != after.clean_correct, patched
    return before.clean != after.clean, before.patched != after.patched


def _pair(before: StageOutcome, after: StageOutcome) -> StepPair | None:
    both = before.eligible & after.eligible
    if not both.any():
        return None
    found = paired(before.success[both], after.success[both])
    return StepPair(
        n=found.n,
        only_before=found.only_old,
        only_after=found.only_new,
        points=100.0 * found.difference,
        low_points=100.0 * found.interval.low,
        high_points=100.0 * found.interval.high,
        p=found.p,
        p_holm=found.p,
    )


def _flip(
    before: StageOutcome,
    after: StageOutcome,
    row: int,
    indices: NDArray[np.int64],
    labels: Classes,
    flipped: tuple[Flags, Flags],
) -> Flip:
    def of(array: Classes | None) -> int | None:
        return None if array is None else int(array[row])

    def won(stage: StageOutcome) -> bool | None:
        return bool(stage.success[row]) if stage.eligible[row] else None

    return Flip(
        index=int(indices[row]),
        label=int(labels[row]),
        clean_flipped=bool(flipped[0][row]),
        patched_flipped=bool(flipped[1][row]),
        clean_before=of(before.clean),
        clean_after=of(after.clean),
        patched_before=of(before.patched),
        patched_after=of(after.patched),
        won_before=won(before),
        won_after=won(after),
    )
