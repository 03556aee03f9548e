"""The record of one model's certificates against every patch of a size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from eval.measure.evaluation_record import ImagesFacts, ModelFacts, PatchFacts
from training.record_types import Sha256, Share, Size, payloads
from training.validated import AtLeast1, NotNegative

KIND = "certification"


class MaskedAttack(TypedDict):
    """What one patch set achieved against masked inference."""

    patch: PatchFacts
    asr: Share
    """Of the certified images that it is for and that masked inference has right without it."""


class CertificationRecord(TypedDict):
    """The payload of a record of kind ``certification``: double masking on one model."""

    key: Sha256
    """Digest of all that the result depends on; it is not made again."""
    model: ModelFacts
    images: ImagesFacts
    patch_px: AtLeast1
    """Side of the patches that the certificates are against."""
    mask_px: Size
    masks: AtLeast1
    """Every pair of them was asked, until one answer was wrong."""
    clean: Share
    """Right without a mask."""
    masked: Share
    """Right by masked inference, without a patch."""
    certified: Share
    """Right by masked inference, whatever a patch of the size shows and wherever it lies."""
    mean_passes: Annotated[float, Field(ge=1.0)]
    """Of the model, for one masked inference."""
    ms_per_pass: NotNegative
    """Mean over all passes, 64 images a call, one thread."""
    attacks: NotRequired[list[MaskedAttack]]
    """Patches that were tried; not in records where none was."""


def worst_attack(record: CertificationRecord) -> MaskedAttack | None:
    """The patch set that achieved the most against masked inference; None where none was tried."""
    return max(record.get("attacks", []), key=lambda one: one["asr"]["value"], default=None)


def certifications_from_records(records: Iterable[Mapping[str, Any]]) -> list[CertificationRecord]:
    """The certifications among ``records``, in their order.

    Raises:
        InputError: one does not match the schema.
    """
    return payloads(records, KIND, CertificationRecord)
