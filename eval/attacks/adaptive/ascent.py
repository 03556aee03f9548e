"""Per-image signed ascent that stops for each image once it has won, with whole bytes throughout.

Per step, with a patch δ of whole numbers 0…255, K draws ω of the victim's randomness and a loss ℓ:

    g = ∂/∂δ (1/K) Σ_k ℓ(f_ωk(paste(x, δ)), y)
    v ← momentum · v + g / mean|g|
    δ ← clamp(δ + round(step) · sign(v), 0, 255)

The step falls linearly to a tenth, at least 1. Since δ is a whole number at every step, the network
gets the same input as a device would, and the best iterate needs no rounding. An image whose margin
is over ``confidence`` in all K answers leaves the batch and another takes its place, so the work
goes to the images that resist.

Towards one class t of each image, ℓ = z_t − z_y with the label y, and any wrong class still wins.
Untargeted ascent follows the currently leading class, and stays in the first basin that it enters;
ascent towards each class finds others.

References: Athalye et al., "Obfuscated gradients give a false sense of security" (ICML 2018), the
expectation over the defense's randomness and the backward pass through a stand-in; Croce and Hein,
"Reliable evaluation of adversarial robustness" (ICML 2020), the worst case over several attacks;
Gowal et al., "An alternative surrogate loss for PGD-based adversarial testing" (2019), the attack
towards each class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eval.attacks.adaptive.straight_through import Variant, attacked
from eval.attacks.adaptive.victim import Victim, pixel_gradient
from eval.attacks.losses import Loss, attack_loss, class_over_label
from eval.attacks.predictions import evaluation_mode, logits
from eval.attacks.settings import Momentum
from training.patching import falling_step_size, paste, patch_gradient, step_along_sign
from training.quantizers import FLOAT
from training.validated import AtLeast1, NotNegative, Positive, validated


@validated()
class AscentSettings:
    """Settings of one ascent; ``step_size`` in pixel values, ``confidence`` in logits of margin."""

    variant: Variant = "clipped"
    loss: Loss = "margin"
    steps: AtLeast1 = 100
    step_size: Positive = 24.0
    momentum: Momentum = 0.8
    draws: AtLeast1 = 1
    confidence: NotNegative = 0.25
    batch_size: AtLeast1 = 64


@dataclass(frozen=True, kw_only=True)
class Ascended:
    """Best iterate of each image: ``patch`` uint8 N×3×h×w, ``margin`` float N (mean over the
    draws, positive where it won), ``wins`` float N (share of the draws that it won)."""

    patch: Tensor
    margin: Tensor
    wins: Tensor

    def keep_better(self, rows: Tensor, found: Ascended) -> None:
        """Take over better results from ``found``, which holds these rows, int64: more draws won,
        or the same number with a larger margin."""
        better = (found.wins > self.wins[rows]) | (
            (found.wins == self.wins[rows]) & (found.margin > self.margin[rows])
        )
        kept = rows[better]
        self.patch[kept] = found.patch[better]
        self.margin[kept], self.wins[kept] = found.margin[better], found.wins[better]


def ascend(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    mask: Tensor,
    positions: Tensor,
    start: Tensor,
    settings: AscentSettings,
    generator: torch.Generator,
    stepped: Callable[[int], None] = lambda _: None,
    *,
    toward: Tensor | None = None,
) -> Ascended:
    """Ascend for every image.

    Args:
        images: uint8 N×3×H×W; labels: int64 N; mask: bool h×w; positions: int64 N×2.
        start: uint8 N×3×h×w, the initial content.
        generator: of the victim's randomness.
        stepped: called with the number of images finished since the last call.
        toward: int64 N, the class that each image is driven to instead of by ``settings.loss``;
            any wrong class wins.
    """
    count = len(images)
    patch = start.float() * mask
    best = Ascended(
        patch=patch.to(torch.uint8),
        margin=torch.full((count,), -torch.inf),
        wins=torch.zeros(count),
    )
    velocity = torch.zeros_like(patch)
    done = torch.zeros(count, dtype=torch.int64)
    waiting = list(range(count))
    active = torch.zeros(0, dtype=torch.int64)
    with evaluation_mode(victim.network), attacked(victim.network, settings.variant):
        while True:
            fresh = waiting[: settings.batch_size - len(active)]
            del waiting[: len(fresh)]
            active = torch.cat([active, torch.tensor(fresh, dtype=torch.int64)])
            if not len(active):
                return best
            last = bool((done[active] >= settings.steps).all())
            margin, wins, gradient = _step(
                victim,
                images[active],
                labels[active],
                mask,
                positions[active],
                patch[active],
                settings,
                generator,
                with_gradient=not last,
                toward=None if toward is None else toward[active],
            )
            shown = Ascended(patch=patch[active].to(torch.uint8), margin=margin, wins=wins)
            best.keep_better(active, shown)
            certain = (wins >= 1.0) & (margin > settings.confidence)
            finished = certain | (done[active] >= settings.steps)
            going = active[~finished]
            stepped(int(finished.sum()))
            if len(going):
                own = velocity[going]
                size = falling_step_size(settings.step_size, done[going], settings.steps)
                patch[going] = step_along_sign(
                    patch[going],
                    gradient[~finished],
                    size.round().clamp_min(1.0)[:, None, None, None],
                    velocity=own,
                    momentum=settings.momentum,
                )
                velocity[going] = own
                done[going] += 1
            active = going


def _step(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    mask: Tensor,
    positions: Tensor,
    patch: Tensor,
    settings: AscentSettings,
    generator: torch.Generator,
    *,
    with_gradient: bool,
    toward: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Margin N and share of wins N over the draws, and the gradient of the patch N×3×h×w."""
    pasted = paste(images.float(), patch, mask, positions)
    pasted = pasted.contiguous(memory_format=torch.channels_last)
    total = torch.zeros_like(pasted)
    margins = []
    for _ in range(settings.draws):
        seen = pasted.detach().requires_grad_(with_gradient)
        with victim.drawn(generator) as bits, torch.set_grad_enabled(with_gradient):
            answered, followed = _answers(victim, seen, bits, settings.variant)
            margins.append(attack_loss("margin", answered.detach(), labels, None))
            if with_gradient:
                if toward is None:
                    loss = attack_loss(settings.loss, followed, labels, None)
                else:
                    loss = class_over_label(followed, labels, toward)
                total += torch.nan_to_num(pixel_gradient(loss.sum(), seen))
    stacked = torch.stack(margins)
    gradient = patch_gradient(total / settings.draws, mask, positions)
    return stacked.mean(dim=0), (stacked > 0).float().mean(dim=0), gradient


@torch.no_grad()
def likeliest_wrong(
    victim: Victim, images: Tensor, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """The wrong classes of each image without a patch, likeliest first: int64 N×(C − 1)."""
    with evaluation_mode(victim.network), victim.drawn(generator) as bits:
        found = torch.from_numpy(logits(victim.network, images.numpy(), bits))
    order = found.argsort(dim=1, descending=True, stable=True)
    return order[order != labels[:, None]].reshape(len(labels), -1)


def _answers(victim: Victim, pixels: Tensor, bits: int, variant: Variant) -> tuple[Tensor, Tensor]:
    """The victim's logits, and the logits whose gradient is followed; both N×C."""
    if victim.stand_in is not None:
        with torch.no_grad():
            answered = victim.network(pixels)
        with victim.stand_in.at(bits):
            return answered, victim.stand_in(pixels)
    if variant != "shadow" or bits == FLOAT:
        answered = victim.network(pixels)
        return answered, answered
    with torch.no_grad():
        answered = victim.network(pixels)
    with victim.network.at(FLOAT):
        shadow = victim.network(pixels)
    return answered, shadow + (answered - shadow).detach()
