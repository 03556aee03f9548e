"""The record of one evaluation: one model file on one engine against one set of patches.

This module is the schema that ``eval.measure.evaluation`` writes and the report reads. A record is
plain JSON; every share has n, k and its 95% Wilson interval; a value that was not measured is null,
never 0. ``read_evaluations`` refuses records that do not match the schema.

The images that an attack won on are stored as packed bits (``outcomes``), so that any later
comparison of records (a common set, a paired test) needs no second run of the models.
"""

from __future__ import annotations

import fractions
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from deploy.core.errors import InputError
from deploy.core.outcomes import image_indices, unpack_bits
from deploy.core.records import read_records
from deploy.core.share import share
from training.data import ImageSet
from training.record_types import Fraction, Outcomes, Sha256, Share, Size, payloads
from training.validated import AtLeast0, AtLeast1, Positive

KIND = "evaluation"


class SourceFacts(TypedDict):
    """The network that a patch was made on; null where a supplied patch does not say."""

    network: str | None
    defense: str | None
    checkpoint_sha256: Sha256 | None
    bit_widths: list[AtLeast1] | None
    """More than one: the patch was made on all of them at once. 32 is float."""
    seed: int | None
    """The seed of the network's training."""
    members: NotRequired[list[Sha256]]
    """Checkpoints of the networks that the patch was made on at once, where they are several."""


class PatchFacts(TypedDict):
    """What was pasted, where, and how it was made."""

    name: str
    attack: str | None
    """``gap``, ``lavan``, …; null for a supplied patch."""
    kind: Literal["universal", "per-image"]
    shape: str | None
    """``square`` or ``circle``."""
    size_px: Size
    """Of the patch's box."""
    area_px: AtLeast1
    """Pixels under the mask."""
    area_share: Fraction
    """Of the image's area."""
    placement: str | None
    """``random``, ``centre``, ``top-left``, … or ``fixed``."""
    target: AtLeast0 | None
    """Class index; null for an untargeted patch."""
    steps: AtLeast1 | None
    restarts: AtLeast1 | None
    seed: int | None
    """The seed of the attack's generator."""
    made_on: str | None
    """Split whose images the patch was optimized on."""
    settings: dict[str, Any]
    """All settings of the attack, resolved."""
    source: SourceFacts
    sha256: Sha256
    """Of the patch set's content."""


def patch_identity(patch: PatchFacts) -> tuple[str, int | None]:
    """What distinguishes patch sets in the key of a record: the digest of their arrays, and the
    target, which is not part of the arrays and decides what a success is."""
    return patch["sha256"], patch["target"]


def made_on_it(patch: PatchFacts, checkpoint_sha256: str | None) -> bool:
    """Whether a patch is white-box for a network: it was made on the same weights, alone or with
    other networks."""
    source = patch["source"]
    made_on = {source["checkpoint_sha256"], *source.get("members", [])}
    return checkpoint_sha256 is not None and checkpoint_sha256 in made_on


class Counts(TypedDict):
    """Nodes that an engine ran, by what they computed in."""

    integer: AtLeast0
    float: AtLeast0


class CertificateSummary(TypedDict):
    """Whether the engine ran the file in integers, and what it ran, by kind of operator."""

    ok: bool
    counts: dict[str, Counts]


class RunFacts(TypedDict):
    """The training run that a model is from, to tell it from others of its network and defense."""

    name: str
    """Of the run's folder, without its place."""
    seed: int
    config: dict[str, Any]
    """Every setting of the training, resolved."""


class ModelFacts(TypedDict):
    """What was attacked."""

    network: str
    """Architecture, such as ``resnet8``."""
    defense: str
    """``plain``, ``qadtr``, …."""
    bit_width: AtLeast1
    """32 is float."""
    checkpoint_sha256: Sha256 | None
    file: str | None
    """Name of the model file, without its folder; null when the network itself ran in torch."""
    file_sha256: Sha256 | None
    file_size_bytes: AtLeast1 | None
    engine: str
    """``onnxruntime``, … or ``torch`` for the fake-quantized network itself."""
    engine_version: str
    certificate: CertificateSummary | None
    """Summary of the integer certificate: what the engine really ran."""
    run: NotRequired[RunFacts]
    """Not in records of before, and not of a file that no run made."""


class ImagesFacts(TypedDict):
    """The images of the evaluation."""

    name: str
    split: str
    digest: Sha256
    """SHA-256 of the data set's image bytes, as its loader gives it."""
    n: AtLeast1
    """Images of the split that clean accuracy was measured on."""
    classes: Annotated[list[str], Field(min_length=1)]


def images_facts(images: ImageSet) -> ImagesFacts:
    """The facts of one split."""
    return ImagesFacts(**images.about, n=len(images), classes=list(images.classes))


class FloorFacts(TypedDict):
    """The random-patch floor: the same size, mask and places, uniform noise as content."""

    asr: Share
    seed: int


class DriftFacts(TypedDict):
    """The engine against the fake-quantized network, on the same patches and images."""

    asr_points: float
    """ASR on the engine minus ASR of the fake-quantized network, in percentage points."""
    fake_quantized_asr: Share
    fake_quantized_clean: Share
    clean_agreement: Share
    """Same top-1, of all clean images."""
    patched_agreement: Share
    clean_flips: list[AtLeast0]
    """Indices within the split of the clean images whose top-1 differs."""
    patched_flips: list[AtLeast0]


class LatencyFacts(TypedDict):
    """Timings of the engine on this machine; compare within one run only."""

    p50_ms: Positive
    p95_ms: Positive
    p99_ms: Positive
    images_per_s: Positive
    batch_size: AtLeast1
    threads: AtLeast1
    repeats: AtLeast1
    """Batches that were timed."""


class EvaluationRecord(TypedDict):
    """The payload of a record of kind ``evaluation``."""

    key: Sha256
    """Digest of everything the result depends on; an evaluation with the same key is not redone."""
    model: ModelFacts
    patch: PatchFacts
    images: ImagesFacts
    clean_accuracy: Share
    """Over all images of the split that were given."""
    clean_accuracy_patched_images: Share
    """Over the images of the patch set, to compare with ``robust_accuracy``."""
    robust_accuracy: Share
    asr: Share
    """Primary: of the images this model on this engine classifies correctly without the patch (and
    whose label is not the target)."""
    asr_common: Share | None
    """Over the images that every compared model classifies correctly; null when no comparison was
    asked for, or no image is left (``common_set_of`` tells which)."""
    common_set_of: list[str] | None
    """Names of the compared models."""
    asr_all_images: Share
    """Of all images, those whose prediction the patch changes (turns into the target), right or
    wrong before."""
    floor: FloorFacts
    drift: DriftFacts | None
    """Null when there was no fake-quantized network to compare with."""
    latency: LatencyFacts | None
    outcomes: Outcomes


def read_evaluations(folder: Path) -> list[EvaluationRecord]:
    """All evaluation records of a folder, checked.

    Raises:
        InputError: a file is damaged, has an unknown version, or does not match the schema.
    """
    return payloads(read_records(folder), KIND, EvaluationRecord)


MOST_CLEAN_LOST = fractions.Fraction(2, 100)
"""A network whose clean accuracy is more than this under plain QAT is not comparable with it."""


def clean_accuracy_lost(plain: EvaluationRecord, defended: EvaluationRecord) -> fractions.Fraction:
    """How far the clean accuracy is below that of plain QAT, exactly; negative where above."""
    before, after = (
        fractions.Fraction(one["clean_accuracy"]["k"], one["clean_accuracy"]["n"])
        for one in (plain, defended)
    )
    return before - after


def asr_over_common_set(records: Sequence[EvaluationRecord]) -> list[Share | None]:
    """Each record's ASR over the images that the models of *all* given records classify correctly.

    The records must be of the same images and target (one patch against several models, or several
    patches of one attack on the same images). None where no image is left.

    Raises:
        InputError: the records are of different images or targets.
    """
    if not records:
        return []
    first = records[0]
    indices = image_indices(first["outcomes"])
    common = np.ones(len(indices), dtype=np.bool_)
    for record in records:
        same = (
            record["images"]["digest"] == first["images"]["digest"]
            and record["images"]["split"] == first["images"]["split"]
            and record["patch"]["target"] == first["patch"]["target"]
            and np.array_equal(image_indices(record["outcomes"]), indices)
        )
        if not same:
            raise InputError(
                "A common set needs records of the same images and target; "
                f"{record['model']['network']} ({record['patch']['name']}) differs from "
                f"{first['model']['network']} ({first['patch']['name']})."
            )
        common &= unpack_bits(record["outcomes"]["clean_correct"], len(indices))
    common &= unpack_bits(first["outcomes"]["eligible"], len(indices))
    n = int(common.sum())
    if n == 0:
        return [None] * len(records)
    won = [unpack_bits(record["outcomes"]["success"], len(indices)) for record in records]
    return [share(int((flags & common).sum()), n) for flags in won]
