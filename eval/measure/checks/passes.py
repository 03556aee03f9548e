"""Checks of single passes: what the gradient at the patch is, and what the network gives out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deploy.core.share import share_of
from deploy.core.statistics import paired_difference
from eval.attacks.adaptive.victim import found_random
from eval.attacks.predictions import logits
from eval.measure.checks.attacked_network import AttackedNetwork
from eval.measure.checks.checks_record import CheckResult, percent, result, status


def gradient_reaches_patch(attacked: AttackedNetwork) -> CheckResult:
    """The loss after a step of 4 pixel values along the sign, against random signs."""
    start = attacked.start(attacked.settings.size_px)
    before, gradient = attacked.loss_and_gradient(start, "margin")
    signs = torch.randint(0, 2, gradient.shape, generator=attacked.draw("signs")) * 2.0 - 1.0
    rises = []
    for direction in (gradient.sign(), signs):
        moved = (start.float() + 4.0 * direction).clamp(0.0, 255.0)
        after, _ = attacked.loss_and_gradient(moved, "margin")
        rises.append((after > before).numpy())
    along, by_chance = rises
    lead, interval = paired_difference(along, by_chance)
    return result(
        "gradient-reaches-patch",
        status(tripped=lead <= 0.0, passed=interval.low > 0.0),
        f"the loss rises on {percent(along)} of the images along the gradient, "
        f"{percent(by_chance)} at random",
        along=share_of(along),
        random=share_of(by_chance),
    )


def zero_gradients(attacked: AttackedNetwork) -> CheckResult:
    """NaN and zero gradients in the patch, under both losses."""
    start = attacked.start(attacked.settings.size_px)
    figures: dict[str, Any] = {}
    broken, least, most = False, 0.0, 0.0
    for loss in ("margin", "cross-entropy"):
        _, gradient = attacked.loss_and_gradient(start, loss)
        nan = (~torch.isfinite(gradient)).flatten(1).any(dim=1).numpy()
        zero = (gradient == 0).flatten(1).all(dim=1).numpy()
        figures[loss] = {"nan": share_of(nan), "zero": share_of(zero)}
        broken |= bool(nan.any())
        least = max(least, figures[loss]["zero"]["low"])
        most = max(most, figures[loss]["zero"]["high"])
    said = ", ".join(
        f"{loss}: zero on {of['zero']['value']:.1%}, NaN on {of['nan']['value']:.1%}"
        for loss, of in figures.items()
    )
    verdict = status(tripped=broken or least > 0.05, passed=most < 0.1)
    return result("zero-gradients", verdict, said, **figures)


def gives_logits(attacked: AttackedNetwork) -> CheckResult:
    """Whether the outputs are a distribution."""
    found = logits(attacked.network, attacked.images, attacked.bits)
    sums = np.abs(found.sum(axis=1) - 1.0).max()
    distribution = bool(found.min() >= 0.0 and found.max() <= 1.0 and sums < 1e-3)
    return result(
        "logits",
        "tripped" if distribution else "passed",
        f"outputs in {found.min():.2f}…{found.max():.2f}",
        least=float(found.min()),
        most=float(found.max()),
    )


def randomness(attacked: AttackedNetwork) -> CheckResult:
    """Two passes over the same images."""
    found = found_random(attacked.network, attacked.pixels[:32].float(), attacked.bits)
    names = [name for name in ("logits", "gradients") if getattr(found, name)]
    return result(
        "randomness",
        "tripped" if names else "passed",
        f"two passes differ in {' and '.join(names)}" if names else "two passes are the same",
        logits=found.logits,
        gradients=found.gradients,
    )


def loss_surface(attacked: AttackedNetwork) -> CheckResult:
    """The cosine of the patch's gradients at two points two pixel values apart."""
    start = attacked.start(attacked.settings.size_px).float()
    shift = torch.randint(0, 2, start.shape, generator=attacked.draw("shift")) * 4.0 - 2.0
    one, other = (
        attacked.loss_and_gradient(patch, "margin")[1].flatten(1)
        for patch in (start, (start + shift).clamp(0.0, 255.0))
    )
    cosine = float(torch.nan_to_num(torch.cosine_similarity(one, other, dim=1)).mean())
    return result(
        "loss-surface",
        "passed" if cosine >= 0.2 else "tripped",
        f"mean cosine {cosine:.2f}",
        cosine=cosine,
    )
