"""The parts of an exact network: power-of-two scales, folded BatchNorm, a bounded accumulator.

In an exact network (``exact = true`` under ``[network]``) every value between two quantizers is an
integer times a power of two, and every sum of a layer stays under 2^24 in units of that power.
float32 holds such integers exactly and adds them exactly in any order, so the fake-quantized
network in torch computes, bit for bit, what integer arithmetic computes (docs/export.md).

BatchNorm is folded before the weight quantizer.  With the gain g = gamma / sigma of the running
statistics, evaluation quantizes the folded weights g w to steps s, a power of two.  Training
quantizes w to steps s / |g|, which gives the same codes up to the sign of g, and then normalises
with the statistics of the batch.  This is the folding with running statistics and the correction to
batch statistics of Krishnamoorthi (2018, section 3.2.2), with one convolution.

References:
    Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, CVPR 2018 (folding before the weight quantizer).
    Krishnamoorthi, Quantizing deep convolutional networks for efficient inference, 2018.
    Jain et al., Trained Quantization Thresholds, MLSys 2020 (learned power-of-two scales).
    Colbert et al., A2Q: Accumulator-Aware Quantization, ICCV 2023 (bounding sums by the L1 norm).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

EXACT_LIMIT = 2**24
"""float32 holds every integer up to this one."""

WEIGHTS_SHARE, BIAS_SHARE = EXACT_LIMIT // 2, EXACT_LIMIT // 4
"""What products and bias may take of it before rounding; the last quarter is for the rounding."""

_TINY = 2.0**-100


def nearest_power_of_two(x: Tensor) -> Tensor:
    """The power of two nearest to each positive ``x`` on a logarithmic scale, exactly.

    It uses multiplications and comparisons only, so the bits are the same on every machine.
    """
    mantissa, _ = torch.frexp(x)
    power = x / mantissa
    return torch.where(mantissa < math.sqrt(0.5), 0.5 * power, power)


def power_of_two_above(x: Tensor) -> Tensor:
    """The smallest power of two that is at least each positive ``x``, exactly."""
    mantissa, _ = torch.frexp(x)
    power = x / mantissa
    return torch.where(mantissa == 0.5, 0.5 * power, power)


@dataclass(frozen=True, kw_only=True)
class Folding:
    """What the weight quantizer of an exact network needs from its layer, at one bit-width.

    Attributes:
        gain: of the BatchNorm's running statistics, (C,); None where there is none.
        bias: what is added to the folded sum, (C,).
        unit: the power of two in the scale of the input codes.
        reach: the largest magnitude of an input code, times the odd part of their scale.
    """

    gain: Tensor | None
    bias: Tensor
    unit: Tensor
    reach: int

    def magnitude(self, weight: Tensor) -> Tensor:
        """|gain| per output channel, never 0, (C,)."""
        if self.gain is None:
            return weight.new_ones(weight.shape[0])
        return self.gain.detach().abs().clamp_min(_TINY)

    def least_scale(self, weight: Tensor) -> Tensor:
        """The smallest power of two per channel at which no sum can leave 2^24, (C,).

        With folded weights f of step s, sum |codes| is at most sum |f| / s plus half a step for
        each weight, so apart from that rounding products stay under 2^23 and the bias under 2^22.
        """
        folded = weight.detach().abs().flatten(1).sum(dim=1) * self.magnitude(weight)
        products = folded * (self.reach / WEIGHTS_SHARE)
        bias = self.bias.detach().abs() / (self.unit * BIAS_SHARE)
        return power_of_two_above(torch.maximum(products, bias).clamp_min(_TINY))
