"""QADT-R (Guesmi, Ouni, Shafique 2025): A-QAPA + DBWT + GIR, each with its own switch.

First version; docs/qadt-r.md says what the paper's abstract fixes and what this project chose.

* **A-QAPA** (``aqapa``): part of each batch carries patches that were made inside the quantized
  models, by straight-through gradients at the bit-width in use
  (:mod:`training.defenses.patch_pool`).
* **DBWT** (``dbwt``): the bit-width changes at every step (:mod:`training.defenses.schedule`).
  Without it each step trains at the bit-width that a plain cycle gives, but patches are only made
  and shown at the widest one.
* **GIR** (``gir``): Gaussian noise on the gradients that leave the activation quantizers, of
  ``gir_noise`` times their own root mean square.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deploy.device.errors import InputError
from training.defenses.defense import Batch, Defense, TrainingFacts
from training.defenses.patch_pool import PersonalPool, UniversalPool
from training.defenses.schedule import SCHEDULES, scheduled_bit_width
from training.networks import Network
from training.quantizers import NoiseBank
from training.randomness import SETUP, generator_for


@dataclass(frozen=True, kw_only=True)
class QadtrSettings:
    """Settings of QADT-R.

    ``universal_share`` and ``personal_share`` of each batch are patched by the two pools;
    ``sizes_px`` are the sides of universal patches and ``personal_px`` that of per-image ones;
    ``step_size`` (pixel values, 0…255) is the signed step that a visited patch takes;
    ``move``: probability that a per-image patch changes its place at a visit.
    """

    aqapa: bool = True
    dbwt: bool = True
    gir: bool = True
    schedule: str = "cycle"
    universal_share: float = 0.125
    personal_share: float = 0.375
    sizes_px: tuple[int, ...] = (6, 8)
    personal_px: int = 8
    per_bit_width: int = 4
    step_size: float = 25.0
    move: float = 0.1
    gir_noise: float = 0.1

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"defense.schedule must be one of {', '.join(SCHEDULES)}; got {self.schedule!r}"
            )
        shares = (self.universal_share, self.personal_share)
        if min(shares) < 0.0 or sum(shares) > 1.0:
            raise InputError(
                "defense.universal_share and defense.personal_share must be at least 0 and "
                f"together at most 1; got {shares[0]} and {shares[1]}"
            )
        if not self.sizes_px or min(*self.sizes_px, self.personal_px, self.per_bit_width) < 1:
            raise InputError("defense.sizes_px, personal_px and per_bit_width must be at least 1")
        if self.step_size <= 0.0 or self.gir_noise < 0.0 or not 0.0 <= self.move <= 1.0:
            raise InputError(
                "defense.step_size must be above 0, gir_noise at least 0, move between 0 and 1"
            )


class Qadtr(Defense):
    """The three parts of QADT-R behind the interface of every defense."""

    def __init__(self, settings: QadtrSettings, facts: TrainingFacts) -> None:
        largest = max(*settings.sizes_px, settings.personal_px)
        if largest > min(facts.image_size):
            raise InputError(
                f"defense: a patch of {largest} px does not fit images of "
                f"{facts.image_size[0]}×{facts.image_size[1]} px"
            )
        self.settings = settings
        self.facts = facts
        self.needs_pixel_gradient = settings.aqapa
        start = generator_for(facts.seed, SETUP, "patches")
        self.universal = UniversalPool(
            bit_widths=facts.bit_widths if settings.dbwt else facts.bit_widths[:1],
            sizes_px=settings.sizes_px,
            per_bit_width=settings.per_bit_width,
            step_size=settings.step_size,
            generator=start,
            device=facts.device,
        )
        self.personal = PersonalPool(
            images=facts.images,
            image_size=facts.image_size,
            size_px=settings.personal_px,
            step_size=settings.step_size,
            move=settings.move,
            generator=start,
            device=facts.device,
        )

        self.noise = NoiseBank(generator_for(facts.seed, SETUP, "noise", facts.device))

    def bit_width(self, step: int) -> int:
        return scheduled_bit_width(
            self.settings.schedule,
            self.facts.bit_widths,
            step,
            steps=self.facts.steps,
            seed=self.facts.seed,
        )

    def prepare(self, step: int, batch: Batch, network: Network) -> Tensor:
        switch = network.switch
        if self.settings.gir:
            self.noise.generator = generator_for(self.facts.seed, step, "noise", self.facts.device)
            switch.gradient_noise, switch.noise = self.settings.gir_noise, self.noise
        if not self.settings.aqapa or not self._patches_at(switch.active):
            return batch.pixels
        count = batch.pixels.shape[0]
        generator = generator_for(self.facts.seed, step, "patches")
        order = torch.randperm(count, generator=generator).to(batch.pixels.device)
        universal = round(count * self.settings.universal_share)
        personal = round(count * self.settings.personal_share)
        pixels = batch.pixels
        if universal:
            rows = order[:universal]
            pixels = self.universal.patch(pixels, rows, switch.active, generator)
        if personal:
            rows = order[universal : universal + personal]
            pixels = self.personal.patch(pixels, rows, batch.indices, generator)
        return pixels

    def _patches_at(self, bits: int) -> bool:
        return self.settings.dbwt or bits == self.facts.bit_widths[0]

    def learn(self, step: int, gradient: Tensor | None, logits: Tensor, batch: Batch) -> None:
        if gradient is None:
            return
        self.universal.learn(gradient, logits.argmax(dim=1) != batch.labels)
        self.personal.learn(gradient)

    def state(self) -> dict[str, Tensor]:
        pools = (("universal", self.universal.state()), ("personal", self.personal.state()))
        return {f"{pool}.{name}": tensor for pool, state in pools for name, tensor in state.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        def of(pool: str) -> dict[str, Tensor]:
            return {n.removeprefix(pool): t for n, t in tensors.items() if n.startswith(pool)}

        self.universal.load_state(of("universal."))
        self.personal.load_state(of("personal."))
