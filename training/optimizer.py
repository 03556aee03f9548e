"""The optimizer of a training, its learning rate at each step, and the average of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.config import OptimizerSettings


def optimizer_of(
    parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings
) -> torch.optim.SGD:
    """SGD with Nesterov momentum, and with weight decay only on matrices and kernels."""
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
    """The learning rate of ``step``: a linear warm-up times a cosine from 1 at step 0 to 0 at
    ``steps``."""
    warmup = settings.warmup_epochs * steps_per_epoch
    rate = settings.learning_rate * min(1.0, (step + 1) / max(1.0, warmup))
    return rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))


class MovingAverage:
    """avg ← d · avg + (1 - d) · tensor after each step, with d = min(decay, (1 + t) / (10 + t)).

    ``network``: the live tensors by name.  All floating ones are averaged (parameters and BatchNorm
    statistics alike); flags and counters are copied.  The smaller decay of the first steps t keeps
    the random start out of the average.  An activation scale is set from a batch in the middle of
    training, at the first step of its bit-width; its earlier average is then dropped.
    """

    def __init__(self, network: Mapping[str, Tensor], decay: float) -> None:
        self.network, self.decay = network, decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in network.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the network's tensors after ``step`` (0-based) to the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        fresh = {
            name.replace("ready_", "scale_")
            for name, tensor in self.network.items()
            if tensor.dtype == torch.bool and not torch.equal(tensor, self.tensors[name])
        }
        for name, tensor in self.network.items():
            average = self.tensors[name]
            if tensor.is_floating_point() and name not in fresh:
                average.lerp_(tensor, 1.0 - decay)
            else:
                average.copy_(tensor)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore :attr:`tensors` as they were saved."""
        for name, average in self.tensors.items():
            average.copy_(tensors[name])
