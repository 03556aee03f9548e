"""DWQ: double-win quantization (Fu et al., ICML 2021): random precision while training and after.

Each step draws one bit-width; the adversarial batch is made and the update is taken at that same
precision, with a BatchNorm for each.  At inference a bit-width is drawn for every batch, so an
attacker does not know the precision that will be used: :func:`predict_at_random_precision`.
docs/rivals.md says what the paper fixes and what is chosen.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deploy.core.errors import InputError
from training.defenses.defense import Batch, Defense, TrainingFacts
from training.defenses.inner_attack import PatchAttack, perturb
from training.defenses.schedule import scheduled_bit_width
from training.frozen import frozen_statistics
from training.networks import Network
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


class Dwq(Defense):
    """Random precision training behind the interface of every defense."""

    def __init__(self, settings: DwqSettings, facts: TrainingFacts) -> None:
        if set(settings.bits) != set(facts.bit_widths):
            raise InputError(
                f"defense.bits of dwq are {sorted(settings.bits)}, the network's bit-widths "
                f"{sorted(facts.bit_widths)}: one that is not drawn is never trained; set "
                "network.bit_widths and defense.bits to the same"
            )
        self.settings = settings
        self.facts = facts
        self.attack: PatchAttack | None = None
        if settings.attack == "patch":
            self.attack = PatchAttack(
                image_size=facts.image_size,
                size_px=settings.patch_px,
                steps=settings.inner_steps,
                step_size=settings.patch_step_size,
            )

    def bit_width(self, step: int) -> int:
        return scheduled_bit_width(
            "uniform", self.facts.bit_widths, step, steps=self.facts.steps, seed=self.facts.seed
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


@torch.no_grad()
def predict_at_random_precision(
    network: Network,
    images: NDArray[np.uint8],
    bit_widths: tuple[int, ...],
    generator: torch.Generator,
    *,
    batch_size: int = 125,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Classes and the bit-width each was computed at, int64 (N,) both: DWQ's own inference.

    A bit-width is drawn from ``bit_widths`` by ``generator`` for each batch of ``images`` (uint8
    N×3×H×W).  It is a setting of the evaluation: nothing of it is in a checkpoint or an exported
    file, and an attacker who averages over the draw is the one to report.

    Raises:
        InputError: no images, no bit-width, or one that the network does not have.
    """
    if len(images) == 0 or not bit_widths:
        raise InputError("random precision needs at least one image and one bit-width")
    device = next(network.parameters()).device
    predicted, drawn = [], []
    for start in range(0, len(images), batch_size):
        bits = bit_widths[int(torch.randint(len(bit_widths), (), generator=generator))]
        pixels = torch.tensor(images[start : start + batch_size]).to(device).float()
        with network.at(bits):
            classes = network(pixels).argmax(dim=1).cpu().numpy()
        predicted.append(classes)
        drawn.append(np.full(len(classes), bits, np.int64))
    return np.concatenate(predicted).astype(np.int64), np.concatenate(drawn)
