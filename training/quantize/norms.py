"""Normalizations by bit-width, and their biases on the grid of integer accumulators."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from training.exact import Folding
from training.quantize.scales import ScaleSource
from training.quantizers import BitWidthSwitch


def bias_on_grid(bias: Tensor, grid: Tensor) -> Tensor:
    """``bias`` (C,) rounded to multiples of ``grid`` (C,), as an int32 bias of that scale holds it.

    Computed in float64; channels whose grid is 0 (a BatchNorm gain of 0) keep their bias.
    """
    wide, step = bias.double(), grid.double()
    rounded = torch.where(step > 0.0, torch.round(wide / step.clamp_min(1e-300)) * step, wide)
    # An integer has no -0, so a bias must not have it either.
    return rounded.to(bias.dtype) + 0.0


def folding_of(gain: Tensor | None, bias: Tensor, source: ScaleSource) -> Folding:
    """What the weight quantizer of an exact network needs from a layer that reads ``source``."""
    unit = source.value().detach() / source.odd_part()
    return Folding(gain=gain, bias=bias, unit=unit, reach=source.reach())


class SwitchableBatchNorm2d(nn.Module):
    """One BatchNorm per bit-width (Any-Precision DNNs, Yu et al. 2021).

    In evaluation at an integer bit-width the folded bias beta - mean * gamma / sigma is rounded to
    the grid of the integer accumulator, so the fake-quantized network is the exported one.  In an
    exact network the weights include the gain by then, and only the bias is added.
    """

    def __init__(self, switch: BitWidthSwitch, channels: int) -> None:
        super().__init__()
        self.switch = switch
        self.norms = nn.ModuleDict(
            {str(b): nn.BatchNorm2d(channels) for b in switch.spec.bit_widths}
        )

    def active(self) -> nn.BatchNorm2d:
        """The BatchNorm of the active bit-width."""
        return cast(nn.BatchNorm2d, self.norms[str(self.switch.active)])

    def gain_and_bias(self) -> tuple[Tensor, Tensor]:
        """gamma / sigma and beta - mean * gamma / sigma of the running statistics, float32 (C,).

        Computed in float64 with only + - * / and square root, each correctly rounded by IEEE 754,
        and then rounded once: the same bits on every machine and in the exported file.
        """
        norm = self.active()
        assert norm.running_mean is not None and norm.running_var is not None
        gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        bias = norm.bias.double() - norm.running_mean.double() * gain
        return gain.to(norm.weight.dtype), bias.to(norm.bias.dtype)

    def forward(
        self, x: Tensor, accumulator_scale: Tensor | None, *, folded: bool = False
    ) -> Tensor:
        """``x`` N×C×H×W normalized.

        Args:
            accumulator_scale: (C,), input times weight scale; None in float, and where the bias
                should not be on the accumulator's grid.
            folded: whether the weights already include the gain.
        """
        if self.training:
            return cast(Tensor, self.active()(x))
        gain, bias = self.gain_and_bias()
        if accumulator_scale is not None:
            exact = self.switch.spec.exact
            grid = accumulator_scale if exact else accumulator_scale * gain.abs()
            bias = bias_on_grid(bias, grid)
            if folded:
                return x + bias.view(1, -1, 1, 1)
        return torch.addcmul(bias.view(1, -1, 1, 1), x, gain.view(1, -1, 1, 1))
