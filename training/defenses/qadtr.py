"""QADT-R (Guesmi, Ouni, Shafique 2025): A-QAPA + DBWT + GIR, each with its own switch.

First version; docs/qadt-r.md lists what the paper's abstract fixes and what this project chose.

* **A-QAPA** (``aqapa``): part of each batch carries patches that were made inside the quantized
  models, by straight-through gradients at the bit-width in use, the per-image ones in inner steps
  (:mod:`training.defenses.universal_pool`, :mod:`training.defenses.personal_pool`).
* **DBWT** (``dbwt``): the bit-width changes at every step (:mod:`training.defenses.schedule`).
  Without it each step trains at the bit-width of a plain cycle, but patches are only made and shown
  at the widest bit-width.
* **GIR** (``gir``): Gaussian noise on the gradients that leave the activation quantizers, of
  ``gir_noise`` times their own root mean square.  Its other reading (``gir_penalty``) is a penalty
  on the agreement of the input gradients at two bit-widths in and around the patch
  (:mod:`training.defenses.partner`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from deploy.core.errors import InputError
from training.defenses.defense import Batch, TrainingFacts
from training.defenses.partner import drawn_partner, gradient_agreement, patched_region
from training.defenses.personal_pool import PersonalPool
from training.defenses.schedule import Schedule, ScheduledDefense
from training.defenses.showing import Law, Pose
from training.defenses.universal_pool import Shape, UniversalPool
from training.frozen import frozen_statistics, pixel_gradient
from training.gradients import NoiseBank
from training.quantize import Network
from training.randomness import SETUP, generator_for
from training.validated import AtLeast0, AtLeast1, NotNegative, Positive, Share, validated

_AtLeastOne = Field(min_length=1)


@validated()
class QadtrSettings:
    """Settings of QADT-R.

    ``universal_share`` and ``personal_share`` of each batch are patched by the two pools;
    ``sizes_px`` are the sides of universal patches and ``personal_px`` that of per-image ones;
    ``step_size`` (pixel values, 0…255) is the signed step that a visited patch takes;
    ``move``: probability that a per-image patch changes its place at a visit, and ``central`` that
    the new place is in the middle third of the image's places on each axis; ``inner_steps``:
    further steps that a per-image patch takes before it is shown, each of them a pass over the
    images that show one.

    Universal patches: ``shapes`` (square, circle); ``targeted`` of the ``per_bit_width`` ones of
    each bit-width are made for a class, with a small backward pass of their own; ``placements``
    (random, corners, posed: :mod:`training.defenses.showing`) are the laws that there are patches
    for, posed ones scaled within ``pose_scales`` and turned within ±``pose_degrees``; ``turn``
    shows upright ones turned by multiples of 90°; ``restart_after`` showings in a row with a
    success below ``restart_below`` start one again from noise (0: never).

    The penalty, ``penalty_weight`` times an agreement in [0, 1], is taken on at most
    ``penalty_images`` patched images of every ``penalty_every``-th round of bit-widths, in the
    patch and ``penalty_margin_px`` around it.
    """

    BEFORE: ClassVar[Mapping[str, Any]] = {"inner_steps": 0, "central": 0.0}
    """What runs of before these settings were trained with."""

    GONE: ClassVar[Mapping[str, Any]] = {"replays": 1, "inner_every": 1}
    """What earlier versions could set, each with the value that changed nothing."""

    aqapa: bool = True
    dbwt: bool = True
    gir: bool = True
    schedule: Schedule = "cycle"
    universal_share: Share = 0.125
    personal_share: Share = 0.375
    sizes_px: Annotated[tuple[AtLeast1, ...], _AtLeastOne] = (6, 8)
    personal_px: AtLeast1 = 8
    per_bit_width: AtLeast1 = 4
    step_size: Positive = 25.0
    move: Share = 0.1
    central: Share = 0.5
    inner_steps: AtLeast0 = 4
    gir_noise: NotNegative = 0.1
    gir_penalty: bool = False
    penalty_weight: NotNegative = 0.5
    penalty_every: AtLeast1 = 2
    penalty_images: AtLeast1 = 16
    penalty_margin_px: AtLeast0 = 2
    shapes: Annotated[tuple[Shape, ...], _AtLeastOne] = ("square",)
    targeted: AtLeast0 = 0
    placements: Annotated[tuple[Law, ...], _AtLeastOne] = ("random",)
    pose_scales: tuple[Positive, Positive] = (0.75, 1.25)
    pose_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 30.0
    turn: bool = False
    restart_after: AtLeast0 = 0
    restart_below: Share = 0.1

    @model_validator(mode="after")
    def _fit_together(self) -> QadtrSettings:
        if (both := self.universal_share + self.personal_share) > 1.0:
            raise ValueError(f"universal_share + personal_share must be at most 1; got {both}")
        if self.pose_scales[0] > self.pose_scales[1]:
            raise ValueError(
                f"pose_scales must have the smaller value first; got {list(self.pose_scales)}"
            )
        if self.targeted > self.per_bit_width:
            raise ValueError(
                f"targeted must be 0 to per_bit_width ({self.per_bit_width}); got {self.targeted}"
            )
        if self.gir_penalty and not self.aqapa:
            raise ValueError(
                "gir_penalty acts in and around the patches of A-QAPA; set aqapa = true with it"
            )
        if self.gir_penalty and both == 0.0:
            raise ValueError(
                "gir_penalty acts in and around patches; set universal_share or "
                "personal_share over 0"
            )
        return self

    def require_batch_size(self, batch_size: int) -> None:
        """Refuse a batch without room for two universal patches: one whose home is the step's
        bit-width, and one of any bit-width.

        Raises:
            InputError: ``training.batch_size`` is too small; the message states the smallest size.
        """
        share = self.universal_share if self.aqapa else 0.0
        if share == 0.0 or round(batch_size * share) >= 2:
            return
        least = math.floor(1.5 / share)
        while round(least * share) < 2:
            least += 1
        raise InputError(
            f"training.batch_size must be at least {least}, so that A-QAPA can show two "
            f"universal patches per step (defense.universal_share is {share:g}; 0 shows none); "
            f"got {batch_size}"
        )

    @property
    def batch_shares(self) -> dict[str, float]:
        """The shares of a batch that, where not 0, must contain at least one image, by setting."""
        return {"personal_share": self.personal_share if self.aqapa else 0.0}

    @property
    def largest_px(self) -> dict[str, int]:
        """The side of the largest patch that is trained with, by setting."""
        shown = {}
        if self.aqapa and self.universal_share > 0.0:
            shown["sizes_px"] = max(self.sizes_px)
        if self.aqapa and self.personal_share > 0.0:
            shown["personal_px"] = self.personal_px
        return shown


class Qadtr(ScheduledDefense):
    """The three parts of QADT-R, with the interface of every defense."""

    settings_type = QadtrSettings

    def __init__(self, settings: QadtrSettings, facts: TrainingFacts) -> None:
        if settings.gir_penalty and len(facts.bit_widths) < 2:
            raise InputError(
                "gir_penalty compares a network with itself at another bit-width; give at least "
                "two network.bit_widths"
            )
        super().__init__(settings.schedule, facts)
        self.settings = settings
        self.needs_pixel_gradient = settings.aqapa
        start = generator_for(facts.seed, SETUP, "patches")
        self.universal = UniversalPool(
            bit_widths=facts.bit_widths if settings.dbwt else facts.bit_widths[:1],
            sizes_px=settings.sizes_px,
            per_bit_width=settings.per_bit_width,
            step_size=settings.step_size,
            generator=start,
            device=facts.device,
            shapes=settings.shapes,
            targeted=settings.targeted,
            classes=facts.classes,
            placements=settings.placements,
            pose=Pose(scales=settings.pose_scales, degrees=settings.pose_degrees),
            turn=settings.turn,
            restart_after=settings.restart_after,
            restart_below=settings.restart_below,
            channels=facts.channels,
        )
        personal = settings.aqapa and settings.personal_share > 0.0
        self.personal = PersonalPool(
            # The pool takes gigabytes for ImageNet, so it is not made where no patch is shown.
            images=facts.images if personal else 0,
            image_size=facts.image_size,
            size_px=settings.personal_px,
            step_size=settings.step_size,
            move=settings.move,
            central=settings.central,
            generator=start,
            device=facts.device,
            channels=facts.channels,
        )
        self.noise: NoiseBank | None = None
        if settings.gir:
            self.noise = NoiseBank(generator_for(facts.seed, SETUP, "noise", facts.device))

    def prepare(self, step: int, batch: Batch, network: Network) -> Tensor:
        switch = network.switch
        if self.noise is not None:
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
            pixels = self.universal.patch(
                pixels,
                rows,
                switch.active,
                generator,
                labels=batch.labels,
                improve=partial(_gradient, network) if self.settings.targeted else None,
            )
        if personal:
            rows = order[universal : universal + personal]
            steps = self.settings.inner_steps
            with frozen_statistics(network) if steps else nullcontext():
                pixels = self.personal.patch(
                    pixels,
                    rows,
                    batch.indices,
                    generator,
                    steps=steps,
                    improve=lambda pasted: pixel_gradient(network, pasted, batch.labels[rows]),
                )
        return pixels

    def _patches_at(self, bits: int) -> bool:
        return self.settings.dbwt or bits == self.facts.bit_widths[0]

    def extra_loss(
        self, step: int, batch: Batch, pixels: Tensor, network: Network
    ) -> Tensor | None:
        settings = self.settings
        # Rounds of bit-widths, not steps: every k-th step could always have the same bit-width.
        a_round = step // len(self.facts.bit_widths)
        if not settings.gir_penalty or a_round % settings.penalty_every:
            return None
        partner = drawn_partner(network, self.facts.seed, step)
        patched = (pixels != batch.pixels).flatten(1).any(dim=1).nonzero()[:, 0]
        rows = patched[: settings.penalty_images]
        if partner is None or len(rows) == 0:
            return None
        region = patched_region(batch.pixels[rows], pixels[rows], settings.penalty_margin_px)
        agreement = gradient_agreement(network, pixels[rows], batch.labels[rows], partner, region)
        return settings.penalty_weight * agreement

    def learn(self, step: int, gradient: Tensor | None, logits: Tensor, batch: Batch) -> None:
        if gradient is None:
            return
        generator = generator_for(self.facts.seed, step, "restart")
        self.universal.learn(gradient, logits.argmax(dim=1), batch.labels, generator)
        self.personal.learn(gradient)

    def state(self) -> dict[str, Tensor]:
        pools = (("universal", self.universal.state()), ("personal", self.personal.state()))
        return {f"{pool}.{name}": tensor for pool, state in pools for name, tensor in state.items()}

    def patch_files(self) -> Mapping[str, Mapping[str, NDArray[np.generic]]]:
        settings = self.settings
        return self.universal.files() if settings.aqapa and settings.universal_share > 0.0 else {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        def of(pool: str) -> dict[str, Tensor]:
            return {n.removeprefix(pool): t for n, t in tensors.items() if n.startswith(pool)}

        self.universal.load_state(of("universal."))
        self.personal.load_state(of("personal."))


def _gradient(network: Network, pixels: Tensor, labels: Tensor) -> Tensor:
    with frozen_statistics(network):
        return pixel_gradient(network, pixels, labels)
