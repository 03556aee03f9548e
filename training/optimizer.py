"""The optimizer of a training and its learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from training.config import OptimizerSettings


def optimizer_of(
    parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings
) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on matrices and kernels alone."""
    decayed = [p for p in parameters.values() if p.dim() > 1]
    others = [p for p in parameters.values() if p.dim() <= 1]
    return torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0.0,
    )


def learning_rate(
    settings: OptimizerSettings, step: int, *, steps: int, steps_per_epoch: int
) -> float:
    """Of ``step``: a linear warm-up, times a cosine from 1 at step 0 to 0 at ``steps``."""
    warmup = settings.warmup_epochs * steps_per_epoch
    rate = settings.learning_rate * min(1.0, (step + 1) / max(1.0, warmup))
    return rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))
