"""The record of an adaptive evaluation: what someone who knows the defense achieves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from eval.attacks.adaptive.search import AtDraws, StageResult
from eval.measure.evaluation_record import ImagesFacts, RunFacts
from training.record_types import Fraction, Outcomes, Sha256, Share, payloads
from training.validated import AtLeast1

KIND = "adaptive"

Law = Literal["fixed", "random", "worst"]
"""``fixed``: one bit-width is deployed and known. ``random``: it is drawn for each answer.
``worst``: per image the bit-width at which the attack wins, if there is one."""


class AttackedModel(TypedDict):
    """What was attacked."""

    network: str
    defense: str
    checkpoint_sha256: Sha256
    bit_widths: list[AtLeast1]
    """One where the law is fixed. 32 is float."""
    run: NotRequired[RunFacts]
    """Not in records of before."""


class AttackedPatch(TypedDict):
    """What was pasted."""

    kind: Literal["per-image"]
    size_px: AtLeast1
    area_px: AtLeast1
    area_share: Fraction
    placement: str
    sha256: list[Sha256]
    """Digest of each patch set, in the order of the bit-widths."""


class OnEngine(TypedDict):
    """The same patches in the engine that ships."""

    engine: str
    engine_version: str
    file_sha256: list[Sha256 | None]
    asr: Share


class AdaptiveRecord(TypedDict):
    """The payload of a record of kind ``adaptive``."""

    key: Sha256
    """Digest of everything the result depends on."""
    model: AttackedModel
    law: Law
    images: ImagesFacts
    patch: AttackedPatch
    settings: dict[str, Any]
    seed: int
    clean_accuracy: Share
    """Over the attacked split's chosen images, at the law's bit-widths."""
    asr: Share
    """In torch, on the fake-quantized network; a random one on a fresh draw for each image."""
    on_engine: OnEngine | None
    """Null where no exported model was there."""
    stages: list[StageResult]
    """What each stage of the cascade added; empty for the worst case, which adds none."""
    randomness: dict[str, bool] | None
    """Whether two passes over the same images differed, in ``logits`` and in ``gradients``."""
    draws: list[AtDraws]
    """ASR over fresh draws for each K; empty for a network without randomness."""
    draws_enough: bool
    """Whether the ASR stood still when K was doubled last."""
    outcomes: Outcomes


def adaptive_from_records(records: Iterable[Mapping[str, Any]]) -> list[AdaptiveRecord]:
    """The adaptive evaluations among ``records``, oldest first.

    Raises:
        InputError: one does not match the schema.
    """
    return payloads(records, KIND, AdaptiveRecord)
