"""Settings of the adaptive evaluation: frozen, keyword-only, strictly checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from eval.attacks.adaptive.straight_through import Variant
from eval.attacks.losses import Loss
from eval.attacks.placement import Placement
from eval.attacks.settings import Momentum
from training.validated import AtLeast1, NotNegative, Positive, Recorded, validated

Start = Literal["random", "grey", "transferred"]

CLASSES_TRIED = 5
"""Wrong classes that a resisting image is driven to, likeliest first."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One ascent of the cascade: a straight-through variant, a loss, a start.

    ``toward``: each image is driven to its wrong class of this rank (1 is the likeliest) instead of
    by the loss.
    """

    variant: Variant
    loss: Loss
    start: Start
    toward: int | None = None

    @property
    def name(self) -> str:
        """The stage's name, such as "clipped margin from random"."""
        if self.toward is not None:
            return f"{self.variant} towards class {self.toward} from {self.start}"
        return f"{self.variant} {self.loss} from {self.start}"


@validated()
class AdaptiveSettings(Recorded):
    """Settings of an attack by someone who knows the network.

    Attributes:
        size_px: side of the square, in pixels.
        placement: its place, see ``eval.attacks.placement``.
        steps: of each ascent. On a ResNet-20 trained with inner attacks, 100 win 84% of the images
            and 300 win 92%: too few steps show little about a network that resists. An image that
            is won takes no further steps.
        step_size: of the first step, in pixel values (0…255).
        momentum: decay of the accumulated gradient.
        confidence: margin in logits above which an image counts as won and is not attacked further.
        restarts: of the whole cascade, each with new random starts, on the images that resist.
        batch_size: images per step.
        most_draws: largest K of the expectation over randomness.
        asr_points: K is doubled until the ASR moves by less than this many points.
        scoring_draws: fresh draws that a random network is scored on, for the curve over K.
    """

    size_px: AtLeast1 = 8
    placement: Placement = "centre"
    steps: AtLeast1 = 300
    step_size: Annotated[float, Field(ge=1.0, le=255.0)] = 24.0
    momentum: Momentum = 0.8
    confidence: NotNegative = 0.25
    restarts: AtLeast1 = 1
    batch_size: AtLeast1 = 64
    most_draws: AtLeast1 = 16
    asr_points: Positive = 1.0
    scoring_draws: AtLeast1 = 5


def cascade(variants: tuple[Variant, ...]) -> tuple[Stage, ...]:
    """The stages that are tried one after the other on the images that still resist.

    ``variants[0]`` is the gradient that the network was trained with: it gets every start. The
    float mode's gradient gets both losses, each other variant the margin. Last, the first variant
    drives what still resists to each of its likeliest wrong classes.
    """
    first, *others = variants
    stages = [
        Stage(variant=first, loss="margin", start="random"),
        Stage(variant=first, loss="margin", start="transferred"),
        Stage(variant=first, loss="cross-entropy", start="grey"),
    ]
    for variant in others:
        stages.append(Stage(variant=variant, loss="margin", start="random"))
        if variant == "shadow":
            stages.append(Stage(variant=variant, loss="cross-entropy", start="transferred"))
    for rank in range(1, CLASSES_TRIED + 1):
        stages.append(Stage(variant=first, loss="margin", start="random", toward=rank))
    return tuple(stages)
