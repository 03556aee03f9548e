"""DWQ: double-win quantization (Fu et al., ICML 2021): random precision while training and after.

Each step draws one bit-width; the adversarial batch is made and the update is taken at that same
precision, with a BatchNorm for each bit-width.  At inference a bit-width is drawn for every answer,
so an attacker does not know the precision that will be used (:mod:`eval.attacks.adaptive` attacks
this defense).  docs/rivals.md lists what the paper fixes and what this project chose.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from deploy.core.errors import InputError
from training.defenses.defense import Batch, TrainingFacts
from training.defenses.inner_attack import PatchAttack, perturb
from training.defenses.schedule import ScheduledDefense
from training.frozen import frozen_statistics
from training.quantize import Network
from training.randomness import generator_for
from training.validated import AtLeast1, Positive, validated


@validated()
class DwqSettings:
    """Settings of DWQ.

    ``bits`` is its own set of bit-widths; it must be the network's, since one that is never drawn
    would never be trained.  The paper draws from 4…16; networks here have 2…8 and 32, so 4…8.
    ``attack`` makes the whole batch adversarial: "pgd", in the L∞ ball of ``radius`` pixel values
    with ``inner_steps`` of ``step_size``, is the paper's threat; "patch" is PBAT's per-image attack
    with a ``patch_px`` square and signed steps of ``patch_step_size``, for an equal threat.
    """

    bits: tuple[int, ...] = (8, 7, 6, 5, 4)
    attack: Literal["pgd", "patch"] = "pgd"
    radius: Positive = 8.0
    inner_steps: AtLeast1 = 7
    step_size: Positive = 2.0
    patch_px: AtLeast1 = 8
    patch_step_size: Positive = 25.5

    @property
    def largest_px(self) -> dict[str, int]:
        """The side of the largest patch that is trained with, by setting."""
        return {"patch_px": self.patch_px} if self.attack == "patch" else {}


class Dwq(ScheduledDefense):
    """Random precision training, with the interface of every defense."""

    settings_type = DwqSettings

    def __init__(self, settings: DwqSettings, facts: TrainingFacts) -> None:
        if set(settings.bits) != set(facts.bit_widths):
            raise InputError(
                f"defense.bits of dwq are {sorted(settings.bits)}, but the network's bit-widths "
                f"are {sorted(facts.bit_widths)}: a bit-width that is not drawn is never "
                "trained; set network.bit_widths and defense.bits to the same values"
            )
        super().__init__("uniform", facts)
        self.settings = settings
        self.attack: PatchAttack | None = None
        if settings.attack == "patch":
            self.attack = PatchAttack(
                image_size=facts.image_size,
                size_px=settings.patch_px,
                steps=settings.inner_steps,
                step_size=settings.patch_step_size,
            )

    def prepare(self, step: int, batch: Batch, network: Network) -> Tensor:
        settings = self.settings
        generator = generator_for(self.facts.seed, step, "attack")
        with frozen_statistics(network):
            if self.attack is not None:
                return self.attack.run(network, batch.pixels, batch.labels, generator).pixels
            return perturb(
                network,
                batch.pixels,
                batch.labels,
                radius=settings.radius,
                steps=settings.inner_steps,
                step_size=settings.step_size,
                generator=generator,
            )
