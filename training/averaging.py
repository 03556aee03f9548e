"""The exponential moving average of a network's tensors (EMA), kept beside the training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.checkpoint import load_tensors, persistent_tensors


class MovingAverage:
    """avg ← d · avg + (1 - d) · tensor after each step, with d = min(decay, (1 + t) / (10 + t)).

    All floating tensors are averaged (parameters and BatchNorm statistics alike); flags and
    counters are taken as they are.  The smaller decay of the first steps t keeps the random start
    out of the average.  An activation scale is set from a batch in the middle of training, at the
    first visit of its bit-width: an average from before is dropped then.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {n: t.detach().clone() for n, t in persistent_tensors(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the network's tensors after ``step`` (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        present = persistent_tensors(network)
        fresh = {
            name.replace("ready_", "scale_")
            for name, tensor in present.items()
            if tensor.dtype == torch.bool and not torch.equal(tensor, self.tensors[name])
        }
        for name, tensor in present.items():
            average = self.tensors[name]
            if tensor.is_floating_point() and name not in fresh:
                average.lerp_(tensor, 1.0 - decay)
            else:
                average.copy_(tensor)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back :attr:`tensors` as they were saved."""
        for name, average in self.tensors.items():
            average.copy_(tensors[name])

    def put_into(self, network: nn.Module) -> None:
        """Replace the network's tensors by the averages."""
        load_tensors(network, self.tensors, "the moving average")
