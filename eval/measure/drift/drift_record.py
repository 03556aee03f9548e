"""The record of a drift attribution: one bundle, one patch."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from eval.measure.evaluation_record import ImagesFacts
from training.record_types import Fraction, Sha256, Share, Size
from training.validated import AtLeast0, AtLeast1

KIND = "drift"


class StageFacts(TypedDict):
    """What was measured at one stage."""

    name: str
    how: str
    """What ran there."""
    clean_accuracy: Share
    """Over the images of the patch."""
    asr: Share


class StepPair(TypedDict):
    """A step's paired comparison, over the images that count at both of its ends."""

    n: AtLeast1
    only_before: AtLeast0
    """Images that the patch won on before the step alone."""
    only_after: AtLeast0
    points: float
    """Difference of the two shares, in percentage points."""
    low_points: float
    """Newcombe's 95% interval."""
    high_points: float
    p: Fraction
    """McNemar's, exact and two-sided."""
    p_holm: Fraction
    """Corrected for the steps of the chain."""


class Flip(TypedDict):
    """An image whose prediction a step changed."""

    index: AtLeast0
    """Within the split."""
    label: AtLeast0
    clean_flipped: bool
    patched_flipped: bool
    clean_before: AtLeast0 | None
    """Class; null where a device's report tells right or wrong alone."""
    clean_after: AtLeast0 | None
    patched_before: AtLeast0 | None
    patched_after: AtLeast0 | None
    won_before: bool | None
    """Null where the image did not count for the ASR."""
    won_after: bool | None


class StepFacts(TypedDict):
    """What the step to a stage changed."""

    name: str
    """Of the stage that it leads to."""
    asr_points: float
    """ASR after it minus ASR before it, in percentage points; the steps sum to the drift."""
    paired: StepPair | None
    """Null where no image counts at both ends."""
    inputs_changed: AtLeast0 | None
    """Images, clean and patched together, with other bytes; null where the step changes none."""
    clean_flips_n: AtLeast0
    patched_flips_n: AtLeast0
    flips_n: AtLeast0
    """Images with either."""
    flips: list[Flip]
    """The first 1,000, by index."""


class DriftModel(TypedDict):
    """What was deployed."""

    network: str
    defense: str
    bit_width: AtLeast1
    checkpoint_sha256: Sha256
    file_sha256: Sha256
    engine: str
    bundle: str
    """Name of its file."""
    manifest_sha256: Sha256


class DriftPatch(TypedDict):
    """Which patch."""

    name: str
    attack: str
    kind: str
    target: AtLeast0 | None
    size_px: Size
    pasted_sha256: Sha256


class DriftRecord(TypedDict):
    """The payload of a record of kind ``drift``."""

    model: DriftModel
    patch: DriftPatch
    images: ImagesFacts
    lab_changed: AtLeast0
    """Predictions, clean and patched, that the network gives here and the bundle has otherwise."""
    device: dict[str, Any] | None
    """Host and engine of the device's report, where there is one."""
    stages: list[StageFacts]
    drift_points: float
    """ASR at the last stage minus ASR at the first."""
    steps: list[StepFacts]
