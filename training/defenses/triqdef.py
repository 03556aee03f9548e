"""TriQDef (Guesmi, Ouni, Shafique, ICLR 2026): features and gradients disaligned across bit-widths.

There is no public code; the loss is the published one as summaries of the paper write it
(docs/rivals.md has the algebra, and the choices of this project):

    CE(clean) + CE(patched) + 0.8 · FDP + 0.5 · GPDP

with a penalty on the features (FDP) and one on the input gradients (GPDP) of the patched images,
each a sum over all pairs of active bit-widths.  A step has one bit-width here, so it takes the
pairs that contain it, with the other member as a constant: over a cycle of the bit-widths this is
the gradient of the sum over all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional as F

from deploy.core.errors import InputError
from training.agreement import grey, orientation_agreement, sobel_magnitude, soft_dice
from training.defenses.defense import Batch, TrainingFacts
from training.defenses.inner_attack import PatchAttack
from training.defenses.partner import started_partners
from training.defenses.schedule import ScheduledDefense
from training.frozen import frozen_statistics
from training.quantize import Network, Plan
from training.randomness import generator_for
from training.validated import (
    AtLeast0,
    AtLeast1,
    NotNegative,
    Positive,
    PositiveShare,
    Share,
    validated,
)

STEEPNESS = 100.0
"""Of the sigmoid that makes soft edges of magnitudes, as published."""

QUANTILE = 0.85
"""Of the magnitudes in a map, from which on they are an edge, as published."""

EDGES, ORIENTATIONS = 0.5, 1.0
"""Weights of the two measures in both penalties, as published."""


@validated()
class TriqdefSettings:
    """Settings of TriQDef; the weights are the published ones.

    ``share`` of each batch carries per-image patches as PBAT makes them (``size_px``,
    ``inner_steps``, ``step_size`` in pixel values).  ``feature_weight`` and ``gradient_weight`` are
    those of the two penalties, which are taken on at most ``penalty_images`` of the patched images
    and ``partners`` of the other active bit-widths (0: all).  Until ``wide_until``, a share of the
    training, the two widest bit-widths are active, then all.
    """

    share: PositiveShare = 0.5
    size_px: AtLeast1 = 8
    inner_steps: AtLeast1 = 5
    step_size: Positive = 25.5
    feature_weight: NotNegative = 0.8
    gradient_weight: NotNegative = 0.5
    penalty_images: AtLeast1 = 32
    partners: AtLeast0 = 0
    wide_until: Share = 0.25

    @model_validator(mode="after")
    def _reaches_all(self) -> TriqdefSettings:
        if self.wide_until == 1.0:
            raise ValueError(
                "wide_until must be under 1, because otherwise the narrow bit-widths are not "
                "trained"
            )
        return self

    @property
    def batch_shares(self) -> dict[str, float]:
        """The shares of a batch that must have an image, by setting."""
        return {"share": self.share}

    @property
    def largest_px(self) -> dict[str, int]:
        """The side of the largest patch that is trained with, by setting."""
        return {"size_px": self.size_px}


class Triqdef(ScheduledDefense):
    """TriQDef, with the interface of every defense."""

    settings_type = TriqdefSettings

    def __init__(self, settings: TriqdefSettings, facts: TrainingFacts) -> None:
        if len(facts.bit_widths) < 2:
            raise InputError(
                "triqdef compares a network with itself at another bit-width; give at least two "
                "network.bit_widths"
            )
        super().__init__("cycle", facts)
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

    def active(self, step: int) -> tuple[int, ...]:
        """The bit-widths of the curriculum at ``step``, widest first."""
        widest = step < self.settings.wide_until * self.facts.steps
        return self.facts.bit_widths[:2] if widest else self.facts.bit_widths

    def bit_width(self, step: int) -> int:
        active = self.active(step)
        return active[step % len(active)]

    def extra_loss(
        self, step: int, batch: Batch, pixels: Tensor, network: Network
    ) -> Tensor | None:
        settings = self.settings
        partners = [bits for bits in started_partners(network) if bits in self.active(step)]
        if settings.partners:
            order = generator_for(self.facts.seed, step, "partner")
            chosen = torch.randperm(len(partners), generator=order)[: settings.partners]
            partners = [partners[i] for i in chosen.tolist()]
        if not partners:
            return None
        rows = self._patched[: settings.penalty_images]
        if len(rows) == 0:
            return None
        penalty = alignment(
            network,
            pixels[rows],
            batch.labels[rows],
            partners,
            feature_weight=settings.feature_weight,
            gradient_weight=settings.gradient_weight,
        )
        # The training loss is a mean over clean and patched images, half of the published sum.
        return 0.5 * penalty


def alignment(
    network: Network,
    pixels: Tensor,
    labels: Tensor,
    partners: Sequence[int],
    *,
    feature_weight: float,
    gradient_weight: float,
) -> Tensor:
    """The weighted agreement of the network with itself at the bit-widths ``partners``, summed over
    them: a scalar with a graph to the weights.  ``pixels`` float32 N×3×H×W in [0, 255], ``labels``
    int64 (N,).

    BatchNorm takes the statistics of these images, as it does in the step.  With the running
    statistics, the penalty could be lowered by ruining the network that uses them, and no loss
    would oppose that.
    """
    with frozen_statistics(network, of_batch=True):
        others = []
        for bits in partners:
            with network.at(bits):
                others.append(_features_and_gradient(network, pixels, labels, False))
        features, own = _features_and_gradient(network, pixels, labels, True)
    total = own.new_zeros(())
    for other_features, other in others:
        pairs = zip(features, other_features, strict=True)
        shared = torch.stack([likeness(a, b).mean() for a, b in pairs]).mean()
        total = total + feature_weight * shared
        total = total + gradient_weight * likeness(grey(own), grey(other)).mean()
    return total


def likeness(a: Tensor, b: Tensor) -> Tensor:
    """0.5 · SoftDice of the edges + 1.0 · cosine of the soft HOGs of maps N×h×w: (N,), in [0, 1.5].

    An edge is sigmoid(100 (A − q)), A the Sobel magnitude and q its 85% quantile over the map.
    """
    return EDGES * soft_dice(_edges(a), _edges(b)) + ORIENTATIONS * orientation_agreement(a, b)


def _edges(maps: Tensor) -> Tensor:
    magnitude = sobel_magnitude(maps)
    # The threshold of an edge depends on the map, but no gradient flows through it.
    border = magnitude.detach().flatten(1).quantile(QUANTILE, dim=1)[:, None, None]
    return torch.sigmoid(STEEPNESS * (magnitude - border))


def _features_and_gradient(
    network: Network, pixels: Tensor, labels: Tensor, differentiable: bool
) -> tuple[list[Tensor], Tensor]:
    """Mean activation maps of each stage, N×h×w, and the pixel gradient N×3×H×W."""
    leaf = pixels.detach().requires_grad_()
    names = feature_names(network.plan)
    outputs = network.run(leaf, keep=names)
    logits = outputs[network.plan.steps[-1].name]
    total = F.cross_entropy(logits, labels, reduction="none").sum()
    (gradient,) = torch.autograd.grad(total, leaf, create_graph=differentiable)
    stages = {outputs[name].shape[2:]: outputs[name] for name in names}  # the last of each size
    maps = [output.mean(dim=1) for output in stages.values()]
    return (maps if differentiable else [m.detach() for m in maps]), gradient


def feature_names(plan: Plan) -> tuple[str, ...]:
    """The steps whose outputs are compared: the sums, or the convolutions where there are none."""
    for kind in ("add", "convolution"):
        names = tuple(step.name for step in plan.steps if step.kind == kind)
        if names:
            return names
    return ()
