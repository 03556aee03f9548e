"""The record of one model under one pixel attack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from eval.attacks.pixel.pixel_settings import PixelAttack
from eval.measure.evaluation_record import ImagesFacts
from training.record_types import Sha256, Share, payloads
from training.validated import AtLeast1, NotNegative

KIND = "pixel-attack"


class PixelModel(TypedDict):
    """What was attacked."""

    network: str
    defense: str
    bit_width: AtLeast1
    """32 is float."""
    checkpoint_sha256: Sha256 | None
    engine: str
    """``torch``, or the engine that ran the exported model."""
    file_sha256: Sha256 | None
    """Of the exported model; null for ``torch``."""


class PixelRecord(TypedDict):
    """The payload of a record of kind ``pixel-attack``: one model under one attack."""

    key: Sha256
    """Digest of all that the result depends on; it is not made again."""
    model: PixelModel
    attack: Literal[PixelAttack, "autoattack"]
    """``autoattack`` in records of before the attack had its true name, autoattack-deepfool."""
    norm: Literal["Linf", "L2"]
    epsilon: Annotated[float, Field(gt=0.0, le=255.0)] | None
    """Radius of the ball in pixel values, 0…255; null for ``cw``, which has none."""
    settings: dict[str, Any]
    library: str
    """Name and version."""
    made_at_bit_width: AtLeast1
    """Of the fake-quantized network that the attack followed; straight-through gradients."""
    images: ImagesFacts
    attacked: AtLeast1
    """Images that were attacked, drawn evenly over the split."""
    clean_accuracy: Share
    robust_accuracy: Share
    asr: Share
    largest_change: Annotated[int, Field(ge=0, le=255)]
    """Of a pixel, over all images, in pixel values."""
    mean_l2: NotNegative
    """Euclidean length of the change, the mean over the images, in pixel values."""


def pixels_from_records(records: Iterable[Mapping[str, Any]]) -> list[PixelRecord]:
    """The pixel attacks among ``records``, in their order, each under its attack's true name.

    Raises:
        InputError: one does not match the schema.
    """
    found = payloads(records, KIND, PixelRecord)
    for one in found:
        if one["attack"] == "autoattack":
            one["attack"] = "autoattack-deepfool"
    return found
