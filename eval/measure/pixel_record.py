"""The record of one model under one pixel attack."""

from __future__ import annotations

from typing import Any, TypedDict

from deploy.core.share import Share
from eval.measure.evaluation_record import ImagesFacts

KIND = "pixel-attack"


class PixelModel(TypedDict):
    """What was attacked."""

    network: str
    defense: str
    bit_width: int
    """32 is float."""
    checkpoint_sha256: str | None
    engine: str
    """``torch``, or the engine that ran the exported model."""
    file_sha256: str | None
    """Of the exported model; null for ``torch``."""


class PixelRecord(TypedDict):
    """The payload of a record of kind ``pixel-attack``: one model under one attack."""

    key: str
    """Digest of all that the result depends on; it is not made again."""
    model: PixelModel
    attack: str
    norm: str
    """``Linf`` or ``L2``."""
    epsilon: float | None
    """Radius of the ball in pixel values, 0…255; null for ``cw``, which has none."""
    settings: dict[str, Any]
    library: str
    """Name and version."""
    made_at_bit_width: int
    """Of the fake-quantized network that the attack followed; straight-through gradients."""
    images: ImagesFacts
    attacked: int
    """Images that were attacked, drawn evenly over the split."""
    clean_accuracy: Share
    robust_accuracy: Share
    asr: Share
    largest_change: int
    """Of a pixel, over all images, in pixel values."""
    mean_l2: float
    """Euclidean length of the change, the mean over the images, in pixel values."""
