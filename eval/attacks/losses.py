"""The loss that a patch attack raises, per image, from logits (never from probabilities)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Loss = Literal["margin", "cross-entropy", "target-over-source"]


def attack_loss(loss: Loss, logits: Tensor, labels: Tensor, target: int | None) -> Tensor:
    """The loss that the attacker raises: float N.

    * ``margin``: the wanted logit over the best of the others; targeted z_t − max_{j≠t} z_j,
      untargeted max_{j≠y} z_j − z_y. Positive exactly where the attack wins. It keeps
      rising beyond that point, which makes a patch transfer to another network.
    * ``cross-entropy``: −log p_y raised, or −log p_t lowered.
    * ``target-over-source``: z_t − z_y (LaVAN); untargeted, the strongest other class replaces the
      target, which gives the margin.

    Args:
        logits: float N×C.
        labels: int64 N, the true classes y.
        target: the class t, or None for an untargeted attack.
    """
    if loss == "cross-entropy":
        if target is None:
            return functional.cross_entropy(logits, labels, reduction="none")
        return -functional.cross_entropy(logits, torch.full_like(labels, target), reduction="none")
    own = logits.gather(1, labels[:, None])[:, 0]
    if target is None:
        return _best_of_others(logits, labels) - own
    if loss == "target-over-source":
        return logits[:, target] - own
    return logits[:, target] - _best_of_others(logits, torch.full_like(labels, target))


def class_over_label(logits: Tensor, labels: Tensor, toward: Tensor) -> Tensor:
    """z_t − z_y with a class t of each image: float N, from logits N×C and int64 N and N."""
    picked = logits.gather(1, torch.stack([toward, labels], dim=1))
    return picked[:, 0] - picked[:, 1]


def _best_of_others(logits: Tensor, excluded: Tensor) -> Tensor:
    return logits.scatter(1, excluded[:, None], -torch.inf).amax(dim=1)
