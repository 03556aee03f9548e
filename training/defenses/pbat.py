"""PBAT: patch-based adversarial training (Rao, Stutz, Schiele 2020), for shared weights.

Half of each batch is attacked with patches made on the network as it is, at the bit-width of the
step; the other half stays clean.  docs/rivals.md says what the paper fixes and what is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deploy.core.errors import InputError
from training.defenses.defense import Batch, TrainingFacts
from training.defenses.inner_attack import MOVES, PatchAttack
from training.defenses.schedule import SCHEDULES
from training.defenses.scheduled import ScheduledDefense
from training.frozen import frozen_statistics
from training.networks import Network
from training.randomness import SETUP, generator_for

KINDS = ("per-image", "universal")


@dataclass(frozen=True, kw_only=True)
class PbatSettings:
    """Settings of PBAT; the defaults are those of the paper's code (docs/rivals.md).

    ``kind``: "per-image", a new patch for each image and step, or "universal", one patch kept from
    step to step.  ``share`` of the batch is attacked with a ``size_px`` square by ``inner_steps``
    signed steps of ``step_size`` (pixel values; 25.5 is 0.1 of the range), placed at random
    outside the centre box; ``location`` (none, random, full) moves it where that raises the loss.
    ``schedule``: as for every defense with shared weights.
    """

    kind: str = "per-image"
    share: float = 0.5
    size_px: int = 8
    inner_steps: int = 25
    step_size: float = 25.5
    location: str = "none"
    schedule: str = "cycle"

    def __post_init__(self) -> None:
        for name, valid in (("kind", KINDS), ("location", MOVES), ("schedule", SCHEDULES)):
            if getattr(self, name) not in valid:
                raise InputError(
                    f"defense.{name} must be one of {', '.join(valid)}; got {getattr(self, name)!r}"
                )
        if not 0.0 < self.share <= 1.0:
            raise InputError(f"defense.share must be above 0 and at most 1; got {self.share}")
        if self.size_px < 1 or self.inner_steps < 1 or self.step_size <= 0.0:
            raise InputError(
                "defense.size_px and inner_steps must be at least 1, step_size above 0"
            )


class Pbat(ScheduledDefense):
    """PBAT behind the interface of every defense."""

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
        self.universal = self.attack.noise(1, start).to(facts.device)

    def prepare(self, step: int, batch: Batch, network: Network) -> Tensor:
        generator = generator_for(self.facts.seed, step, "attack")
        count = batch.pixels.shape[0]
        chosen = torch.randperm(count, generator=generator)[: round(count * self.settings.share)]
        rows = chosen.to(batch.pixels.device)
        universal = self.settings.kind == "universal"
        with frozen_statistics(network):
            patched = self.attack.run(
                network,
                batch.pixels[rows],
                batch.labels[rows],
                generator,
                start=self.universal if universal else None,
            )
        if universal:
            self.universal = patched.patches
        pixels = batch.pixels.clone()
        pixels[rows] = patched.pixels
        return pixels

    def state(self) -> dict[str, Tensor]:
        return {"universal": self.universal} if self.settings.kind == "universal" else {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        if self.settings.kind == "universal":
            self.universal = tensors["universal"].to(self.universal.device)
