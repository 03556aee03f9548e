"""What a gradient-free attack asks of its source, and what it is told."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from eval.attacks.gradient import as_pixels
from eval.attacks.losses import attack_loss
from eval.attacks.problem import Problem
from training.patching import paste

Answers = Literal["scores", "labels"]
"""``scores``: the attacker sees the logits; ``labels``: only the class that is output."""


@torch.no_grad()
def progress_of(problem: Problem, patch: Tensor, positions: Tensor, answers: Answers) -> Tensor:
    """How far each image's patch has come, float N, larger is better; one query an image and width.

    With scores the mean margin over the source bit-widths (positive where it wins on a single
    one); with labels the share of the bit-widths on which it wins.

    Args:
        problem: whose images, labels, mask and network are used.
        patch: float N×3×h×w, 0…255, whole numbers.
        positions: int64 N×2.
        answers: what the source reveals.
    """
    pasted = paste(as_pixels(problem.images), patch, problem.mask, positions)
    total = torch.zeros(len(pasted), device=pasted.device)
    widths = problem.settings.bit_widths
    for bits in widths:
        with problem.network.at(bits):
            logits = problem.network(pasted).to(pasted.device)
        target = problem.settings.target
        if answers == "scores":
            total += attack_loss("margin", logits, problem.labels, target)
        else:
            said = logits.argmax(dim=1)
            total += said != problem.labels if target is None else said == target
    return total / len(widths)
