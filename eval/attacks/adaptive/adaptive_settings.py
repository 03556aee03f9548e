"""What the adaptive evaluation is told: frozen, keyword-only, strict about what it is given."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from deploy.core.errors import InputError
from eval.attacks.adaptive.straight_through import Variant
from eval.attacks.losses import Loss
from eval.attacks.placement import PLACEMENTS, Placement

Start = Literal["random", "grey", "transferred"]

CLASSES_TRIED = 5
"""Wrong classes that a resisting image is driven to, likeliest first."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One ascent of the cascade: a straight-through variant, a loss, a start.

    ``toward``: each image is driven to its wrong class of this rank, 1 the likeliest, in the place
    of the loss.
    """

    variant: Variant
    loss: Loss
    start: Start
    toward: int | None = None

    @property
    def name(self) -> str:
        """Such as "clipped margin from random"."""
        if self.toward is not None:
            return f"{self.variant} towards class {self.toward} from {self.start}"
        return f"{self.variant} {self.loss} from {self.start}"


@dataclass(frozen=True, kw_only=True)
class AdaptiveSettings:
    """How the network is attacked by someone who knows it.

    Attributes:
        size_px: side of the square, in pixels.
        placement: where it goes, see ``eval.attacks.placement``.
        steps: of each ascent.
        step_size: of the first step, in pixel values (0…255).
        momentum: decay of the accumulated gradient.
        confidence: margin in logits behind which an image is won for good.
        restarts: of the whole cascade, each with other random starts, on the images that resist.
        batch_size: images per step.
        most_draws: largest K of the expectation over randomness.
        asr_points: K is doubled until the ASR moves by less than this many points.
        scoring_draws: fresh draws that a random network is scored on, for the curve over K.

    Raises:
        InputError: a value outside its range.
    """

    size_px: int = 8
    placement: Placement = "centre"
    steps: int = 100
    step_size: float = 24.0
    momentum: float = 0.8
    confidence: float = 0.25
    restarts: int = 1
    batch_size: int = 64
    most_draws: int = 16
    asr_points: float = 1.0
    scoring_draws: int = 5

    def __post_init__(self) -> None:
        for name in (
            *("size_px", "steps", "restarts", "batch_size"),
            *("most_draws", "scoring_draws"),
        ):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            self._require(name, whole, "a whole number of at least 1")
        self._require("placement", self.placement in PLACEMENTS, f"one of {', '.join(PLACEMENTS)}")
        self._require("step_size", 1.0 <= self.step_size <= 255.0, "in 1…255")
        self._require("momentum", 0.0 <= self.momentum < 1.0, "in [0, 1)")
        self._require("confidence", self.confidence >= 0.0, "at least 0")
        self._require("asr_points", self.asr_points > 0.0, "over 0")

    def as_record(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return asdict(self)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise InputError(
                f"The adaptive evaluation's {name} must be {expected}, got {getattr(self, name)!r}."
            )


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
