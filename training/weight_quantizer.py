"""The quantizer of weights, as a tensor quantizer of Brevitas' weight proxy.

Like the quantizers of activations (:mod:`training.quantizers`) it reads one switch, so that one
assignment changes the bit-width of the whole network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from training.exact import Folding, nearest_power_of_two
from training.gradients import FakeQuantize, ScaleGradient
from training.network_spec import FLOAT
from training.quantizers import SMALLEST_SCALE, BitWidthSwitch, OwnBits, QuantizerOutput
from training.steps import weight_step

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of a channel's largest weight: the ranges that a scale is searched in."""


@torch.no_grad()
def least_squares_scale(weight: Tensor, start: Tensor, bits: int) -> Tensor:
    """The scale (C,) of each channel of ``weight`` (C×…) with about the least squared error.

    It takes the best of ``start`` (C,) and of :data:`SHARES`, and then two steps of Lloyd's
    iteration: the codes for the scale, and the scale that fits these codes best.
    """
    flat, top = weight.detach().flatten(1), 2 ** (bits - 1) - 1

    def codes(scale: Tensor) -> Tensor:
        return torch.div(flat, scale[:, None]).round_().clamp_(-top, top)

    def error(scale: Tensor) -> Tensor:
        return codes(scale).mul_(scale[:, None]).sub_(flat).square_().sum(dim=1)

    best = start.clamp_min(SMALLEST_SCALE)
    least, largest = error(best), flat.abs().amax(dim=1)
    for share in SHARES:
        scale = (largest * (share / top)).clamp_min(SMALLEST_SCALE)
        found = error(scale)
        best, least = torch.where(found < least, scale, best), torch.minimum(found, least)
    for _ in range(2):
        code = codes(best)
        scale = (code * flat).sum(dim=1) / code.square().sum(dim=1).clamp_min(1.0)
        scale = torch.where(scale > 0.0, scale, best).clamp_min(SMALLEST_SCALE)
        best = torch.where(error(scale) < least, scale, best)
        least = torch.minimum(error(best), least)
    return best


class WeightQuantizer(nn.Module, OwnBits):
    """Per-output-channel, symmetric, narrow-range weights; scales from the channel's mean |w|.

    scale = mean|w| * c_b with c_b the step that suits a Gaussian best
    (:func:`training.steps.weight_step`); codes -(2^(b-1) - 1) ... 2^(b-1) - 1, so 2 bits are
    ternary.  The scale follows the weights while training and carries no gradient; clipped
    weights keep their gradient (Brevitas' ``TensorClampSte``).  Switching to evaluation stores
    the scales, and from then on, on whatever machine, the stored ones are used.

    ``fixed_bits`` pins the bit-width of the codes (first and last layer) at every quantized mode.
    ``fixed_scale``, where set, is the scale for any weights: the statistic of an identity would
    clip it.

    With learned weight scales the statistic is only the start of a channel's scale.  The scale is
    then a parameter of its bit-width with LSQ's gradient, and clipped weights have no gradient.

    In an exact network the layer sets ``folding``.  The quantized weights then include the gain of
    BatchNorm (in evaluation; in training the BatchNorm applies it afterwards).  Their scale is the
    nearest power of two, or a larger one where the accumulator's bound requires it.  One scale is
    stored for each bit-width of the network, since each has its own BatchNorm.
    """

    def __init__(self, switch: BitWidthSwitch, channels: int, *, fixed_bits: int | None) -> None:
        super().__init__()
        self.switch = switch
        self.fixed_bits = fixed_bits
        self.channels = channels
        self.own_bits = {}
        self._ready: set[int] = set()
        self.folding: Callable[[], Folding] | None = None
        self.fixed_scale: float | None = None
        for mode in switch.spec.bit_widths:
            if mode != FLOAT:
                self._reserve(mode if switch.spec.exact else fixed_bits or mode)

    def _reserve(self, key: int) -> None:
        if hasattr(self, f"scale_{key}"):
            return
        start = torch.ones(self.channels)
        if self.learned:
            self.register_parameter(f"scale_{key}", nn.Parameter(start))
            self.register_buffer(f"ready_{key}", torch.tensor(False))
        else:
            self.register_buffer(f"scale_{key}", start)

    @property
    def learned(self) -> bool:
        """Whether the scales are parameters."""
        return self.switch.spec.weight_scales == "learned"

    def assign(self, mode: int, bits: int) -> None:
        """Use ``bits`` bits whenever the network is at ``mode``, also where bits were fixed."""
        super().assign(mode, bits)
        if not self.switch.spec.exact:
            self._reserve(bits)

    def codes_bits(self) -> int:
        """Bit-width of the codes at the active bit-width."""
        return self.own_bits.get(self.switch.active, self.fixed_bits or self.switch.active)

    @torch.no_grad()
    def store(self, weight: Tensor, *, fitted: bool = False) -> None:
        """Store the scales of the active bit-width for ``weight``.

        They are those of training (learned ones are stored only where no batch has set them yet),
        or with ``fitted`` those of the least squared error.
        """
        if not self.learned:
            self.value().copy_(self._fitted(weight, least_squares=fitted)[0])
            return
        key = self.codes_bits()
        ready = cast(Tensor, getattr(self, f"ready_{key}"))
        if fitted or not bool(ready):
            scale = self._fitted(weight, least_squares=fitted)[0]
            cast(Tensor, getattr(self, f"scale_{key}")).copy_(scale)
            ready.fill_(True)

    def _fitted(self, weight: Tensor, *, least_squares: bool = False) -> tuple[Tensor, Tensor]:
        """Scales (C,) of the weights without gain and, in an exact network, with their gain; and
        the divisor of the latter in training."""
        mean = weight.detach().abs().flatten(1).mean(dim=1)
        scale = mean * weight_step(self.codes_bits())
        if self.fixed_scale is not None:
            scale = torch.full_like(scale, self.fixed_scale)
        elif least_squares:
            scale = least_squares_scale(weight, scale, self.codes_bits())
        if not self.switch.spec.exact:
            return scale.clamp_min(SMALLEST_SCALE), scale.new_ones(())
        folding = self._folding()
        gain = folding.magnitude(weight)
        scale = nearest_power_of_two((scale * gain).clamp_min(SMALLEST_SCALE))
        return torch.maximum(scale, folding.least_scale(weight)), gain

    def _folding(self) -> Folding:
        if self.folding is None:
            raise ValueError("the weight quantizer of an exact network needs its layer's folding")
        return self.folding()

    def value_for(self, weight: Tensor) -> Tensor:
        """The scales (C,) of the active bit-width that evaluation would use for ``weight``; during
        training, scales from statistics are not stored yet."""
        return self._fitted(weight)[0] if self.training and not self.learned else self.value()

    def value(self) -> Tensor:
        """The stored scales of the active bit-width, float32 of shape (channels,)."""
        key = self.switch.active if self.switch.spec.exact else self.codes_bits()
        scale = cast(Tensor, getattr(self, f"scale_{key}"))
        return scale.abs().clamp_min(SMALLEST_SCALE) if self.learned else scale

    def _learned_value(self, weight: Tensor) -> Tensor:
        """The learned scales of the active bit-width with LSQ's gradient factor."""
        if self.codes_bits() not in self._ready:  # reading the tensor would wait for the GPU
            self.store(weight)
            self._ready.add(self.codes_bits())
        top = 2 ** (self.codes_bits() - 1) - 1
        factor = 1.0 / math.sqrt(max(1, weight[0].numel()) * top)
        return cast(Tensor, ScaleGradient.apply(self.value(), factor))

    def folded(self, weight: Tensor) -> Tensor:
        """The weights whose codes evaluation uses; in an exact network they include the gain."""
        gain = self._folding().gain if self.switch.spec.exact else None
        return weight if gain is None else weight * gain.view(-1, *[1] * (weight.dim() - 1))

    def forward(self, weight: Tensor) -> QuantizerOutput:
        if not self.switch.quantized:
            return weight, None, None, None
        bits = self.codes_bits()
        if self.training and self.learned:
            scale = self._learned_value(weight)
        elif self.training:
            scale, gain = self._fitted(weight)
            scale = scale / gain
        else:
            weight, scale = self.folded(weight), self.value()
        scale = scale.view(-1, *[1] * (weight.dim() - 1))
        top = 2 ** (bits - 1) - 1
        y = cast(Tensor, FakeQuantize.apply(weight, scale, -top, top, not self.learned))
        return y, scale, scale.new_zeros(()), scale.new_tensor(float(bits))
