"""TriQDef (Guesmi, Ouni, Shafique, ICLR 2026): features and gradients disaligned across bit-widths.

The paper has no public code; from its abstract are the three parts, from this project their form
(docs/rivals.md has the algebra).  At each step the network at the step's bit-width b is held
against itself at another one, the partner:

* feature disalignment: SoftDice of the soft Sobel edges of each block's output;
* gradient dissonance: SoftDice of the edges, and cosine of the soft HOGs, of the input gradients;
* joint training: one set of weights at every bit-width, the penalties phased in by a curriculum.

The partner's side is a constant at each step; as partners are drawn anew, each bit-width is moved
away from all others in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import model_validator
from torch import Tensor

from deploy.core.errors import InputError
from training.agreement import edge_agreement, grey, orientation_agreement
from training.defenses.defense import Batch, TrainingFacts
from training.defenses.inner_attack import PatchAttack
from training.defenses.partner import drawn_partner
from training.defenses.schedule import Schedule, ScheduledDefense
from training.frozen import frozen_statistics, image_losses
from training.networks import Network
from training.randomness import generator_for
from training.validated import AtLeast1, NotNegative, Positive, PositiveShare, Share, validated


@validated()
class TriqdefSettings:
    """Settings of TriQDef.

    ``share`` of each batch carries per-image patches as PBAT makes them (``size_px``,
    ``inner_steps``, ``step_size`` in pixel values).  The penalties, ``feature_weight`` and
    ``gradient_weight`` times agreements in [0, 1], are taken on at most ``penalty_images`` of the
    patched images; they grow linearly from 0 at ``curriculum_from`` to full at ``curriculum_to``
    (shares of the training).  ``schedule`` orders the bit-widths.
    """

    share: PositiveShare = 0.5
    size_px: AtLeast1 = 8
    inner_steps: AtLeast1 = 5
    step_size: Positive = 25.5
    feature_weight: NotNegative = 0.5
    gradient_weight: NotNegative = 0.5
    penalty_images: AtLeast1 = 32
    curriculum_from: Share = 0.1
    curriculum_to: Share = 0.5
    schedule: Schedule = "curriculum"

    @model_validator(mode="after")
    def _curriculum_in_order(self) -> TriqdefSettings:
        if self.curriculum_from > self.curriculum_to:
            raise ValueError(
                "curriculum_from and curriculum_to must be in order; got "
                f"{self.curriculum_from} and {self.curriculum_to}"
            )
        return self


class Triqdef(ScheduledDefense):
    """TriQDef behind the interface of every defense."""

    def __init__(self, settings: TriqdefSettings, facts: TrainingFacts) -> None:
        if len(facts.bit_widths) < 2:
            raise InputError(
                "triqdef compares a network with itself at another bit-width; give "
                "network.bit_widths at least two"
            )
        super().__init__(settings.schedule, facts)
        self.settings = settings
        self.attack = PatchAttack(
            image_size=facts.image_size,
            size_px=settings.size_px,
            steps=settings.inner_steps,
            step_size=settings.step_size,
        )
        self._patched = torch.empty(0, dtype=torch.int64)

    def prepare(self, step: int, batch: Batch, network: Network) -> Tensor:
        generator = generator_for(self.facts.seed, step, "attack")
        pixels, self._patched, _ = self.attack.run_on_share(
            network, batch, self.settings.share, generator
        )
        return pixels

    def strength(self, step: int) -> float:
        """The curriculum's factor at ``step``, in [0, 1]."""
        start, end = self.settings.curriculum_from, self.settings.curriculum_to
        done = step / max(1, self.facts.steps)
        return 0.0 if done <= start else min(1.0, (done - start) / max(end - start, 1e-9))

    def extra_loss(
        self, step: int, batch: Batch, pixels: Tensor, network: Network
    ) -> Tensor | None:
        strength = self.strength(step)
        partner = drawn_partner(network, self.facts.seed, step)
        if strength == 0.0 or partner is None:
            return None
        rows = self._patched[: self.settings.penalty_images]
        penalty = alignment(
            network,
            pixels[rows],
            batch.labels[rows],
            partner,
            feature_weight=self.settings.feature_weight,
            gradient_weight=self.settings.gradient_weight,
        )
        return strength * penalty


def alignment(
    network: Network,
    pixels: Tensor,
    labels: Tensor,
    partner: int,
    *,
    feature_weight: float,
    gradient_weight: float,
) -> Tensor:
    """The weighted agreement of the network with itself at ``partner`` bits, a scalar with a graph
    to the weights.  ``pixels`` float32 N×3×H×W in [0, 255], ``labels`` int64 (N,)."""
    with frozen_statistics(network):
        with network.at(partner):
            other_features, other = _features_and_gradient(network, pixels, labels, False)
        features, own = _features_and_gradient(network, pixels, labels, True)
    shared = [edge_agreement(a, b).mean() for a, b in zip(features, other_features, strict=True)]
    of_gradients = 0.5 * (
        edge_agreement(grey(own), grey(other)) + orientation_agreement(grey(own), grey(other))
    )
    return feature_weight * torch.stack(shared).mean() + gradient_weight * of_gradients.mean()


def _features_and_gradient(
    network: Network, pixels: Tensor, labels: Tensor, differentiable: bool
) -> tuple[list[Tensor], Tensor]:
    """Mean activation maps of each block, N×h×w, and the pixel gradient N×3×H×W."""
    leaf = pixels.detach().requires_grad_()
    with block_outputs(network) as outputs:
        total = image_losses(network, leaf, labels).sum()
    (gradient,) = torch.autograd.grad(total, leaf, create_graph=differentiable)
    maps = [output.mean(dim=1) for output in outputs]
    return (maps if differentiable else [m.detach() for m in maps]), gradient


@contextmanager
def block_outputs(network: Network) -> Iterator[list[Tensor]]:
    """Collects what each of the network's blocks gives, in order, inside the ``with`` block."""
    outputs: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Tensor) -> None:
        del module, inputs
        outputs.append(output)

    hooks = [block.register_forward_hook(keep) for block in network.blocks]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
