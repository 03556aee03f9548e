"""PBAT: patch-based adversarial training (Rao, Stutz, Schiele 2020), for shared weights.

Half of each batch is attacked with patches made on the network as it is, at the bit-width of the
step; the other half stays clean.  docs/rivals.md lists what the paper fixes and what this project
chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from training.defenses.defense import Batch, TrainingFacts
from training.defenses.inner_attack import Moves, PatchAttack
from training.defenses.schedule import Schedule, ScheduledDefense
from training.quantize import Network
from training.randomness import SETUP, generator_for
from training.validated import AtLeast1, Positive, PositiveShare, validated


@validated()
class PbatSettings:
    """Settings of PBAT; the defaults are those of the paper's code (docs/rivals.md).

    ``kind``: "per-image", a new patch for each image and step, or "universal", one patch kept from
    step to step.  ``share`` of the batch is attacked with a ``size_px`` square by ``inner_steps``
    signed steps of ``step_size`` (pixel values; 25.5 is 0.1 of the range), placed at random
    outside the centre box; ``location`` (none, random, full) moves it where that raises the loss.
    ``schedule``: as for every defense with shared weights.
    """

    kind: Literal["per-image", "universal"] = "per-image"
    share: PositiveShare = 0.5
    size_px: AtLeast1 = 8
    inner_steps: AtLeast1 = 25
    step_size: Positive = 25.5
    location: Moves = "none"
    schedule: Schedule = "cycle"

    @property
    def batch_shares(self) -> dict[str, float]:
        """The shares of a batch that must have an image, by setting."""
        return {"share": self.share}

    @property
    def largest_px(self) -> dict[str, int]:
        """The side of the largest patch that is trained with, by setting."""
        return {"size_px": self.size_px}


class Pbat(ScheduledDefense):
    """PBAT, with the interface of every defense."""

    settings_type = PbatSettings

    def __init__(self, settings: PbatSettings, facts: TrainingFacts) -> None:
        super().__init__(settings.schedule, facts)
        self.settings = settings
        self.attack = PatchAttack(
            image_size=facts.image_size,
            size_px=settings.size_px,
            steps=settings.inner_steps,
            step_size=settings.step_size,
            moves=settings.location,
        )
        start = generator_for(facts.seed, SETUP, "attack")
        self.universal = self.attack.noise(1, start, facts.channels).to(facts.device)

    def prepare(self, step: int, batch: Batch, network: Network) -> Tensor:
        generator = generator_for(self.facts.seed, step, "attack")
        universal = self.settings.kind == "universal"
        start = self.universal if universal else None
        pixels, _, patches = self.attack.run_on_share(
            network, batch, self.settings.share, generator, start=start
        )
        if universal:
            self.universal = patches
        return pixels

    def state(self) -> dict[str, Tensor]:
        return {"universal": self.universal} if self.settings.kind == "universal" else {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        if self.settings.kind == "universal":
            self.universal = tensors["universal"].to(self.universal.device)
