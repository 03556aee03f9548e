"""Evaluation on integer codes: what an engine computes, in its own order of roundings.

A layer's inputs and weights are codes, integers in float32.  The sums of their products are exact
below 2^24, in any order.  The one inexact step, the multiplication by a scale, is that of ONNX
Runtime's QLinearConv::

    code = clip(rint(f32(sum + bias) · m)),    m = (s_x · s') / s_y

with s' the weights' scale times |gain|, rounded to float32, and the bias an integer at the scale
s_x · s'.  So the fake-quantized network has the engine's codes; none differs because a float32 sum
was rounded differently.  Gradients are straight-through, as in
:class:`training.gradients.FakeQuantize`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from training.gradients import inside
from training.quantized_layers import weight_quantizer
from training.quantizers import StraightThrough

EXACT_BIAS = 2.0**22
"""Above it the sum with the bias is taken in float64, as an int32 accumulator has it."""

FARTHEST = 1024.0
"""A constant channel's code past it saturates anyway."""


class _CodesOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return torch.div(x, scale).round_()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return gradient / scale, None


def codes_of(x: Tensor, scale: Tensor) -> Tensor:
    """The codes, integers in float32, of values that are codes times ``scale``."""
    return cast(Tensor, _CodesOf.apply(x, scale.detach()))


def integer_weights(layer: nn.Module) -> Tensor:
    """The codes of a layer's weights in evaluation, integers in float32, of the weights' shape."""
    quantizer, weight = weight_quantizer(layer), cast(Tensor, layer.weight)
    scale = quantizer.value().detach().view(-1, *[1] * (weight.dim() - 1))
    return codes_of(quantizer(weight)[0], scale)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid of codes that a quantizer rounds values to.

    Attributes:
        step: the scale of its codes, a float32 scalar.
        low, high: its smallest and largest code.
        floor, ceiling: bounds of a clamp before it; no code lies outside of them.
        straight_through: which part of the gradient passes
            (:class:`training.quantizers.BitWidthSwitch`).
    """

    step: Tensor
    low: int
    high: int
    floor: float | None = None
    ceiling: float | None = None
    straight_through: StraightThrough = "clipped"

    @torch.no_grad()
    def ends(self) -> tuple[float, float]:
        """The smallest and largest code that the clamp leaves."""
        low, high = float(self.low), float(self.high)
        if self.floor is not None:
            low = min(max(low, round(self.floor / float(self.step))), high)
        if self.ceiling is not None:
            ceiling = torch.tensor(self.ceiling, device=self.step.device) / self.step
            high = max(min(high, float(ceiling.round())), low)
        return low, high


class _Requantized(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, total: Tensor, multiplier: Tensor, grid: Grid) -> Tensor:
        if ctx.needs_input_grad[0]:
            value = total * multiplier
            ctx.save_for_backward(value, multiplier)
            ctx.grid = grid
            code = value.round()
        else:
            code = total.detach().mul_(multiplier).round_()
        return code.clamp_(*grid.ends()).mul_(grid.step)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        value, multiplier = ctx.saved_tensors
        grid: Grid = ctx.grid
        low, high = -torch.inf, torch.inf
        if grid.straight_through == "clipped":
            low, high = grid.low - 0.5, grid.high + 0.5
        elif grid.straight_through == "rectified" and grid.low == 0:
            low = 0.0
        step = float(grid.step)
        if grid.floor is not None:
            low = max(low, grid.floor / step)
        if grid.ceiling is not None:
            high = min(high, grid.ceiling / step)
        passed = inside(gradient, value, low, high)
        return passed.mul_(multiplier * grid.step), None, None


def requantized(total: Tensor, multiplier: Tensor, grid: Grid) -> Tensor:
    """Codes times their step, from integer sums N×C×H×W, which may be overwritten, and a float32
    multiplier that broadcasts."""
    return cast(Tensor, _Requantized.apply(total, multiplier.detach(), grid))


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A layer's integers with the gain and the bias that follow it.

    Attributes:
        sign: of the gain, float32 (C,); the weights of each output are multiplied by it.
        bias: integers in float32 or float64, (C,).
        multiplier: m, float32 (C,).
    """

    sign: Tensor
    bias: Tensor
    multiplier: Tensor


@torch.no_grad()
def folded(
    *, gain: Tensor, bias: Tensor, scale_in: Tensor, scales: Tensor, step: Tensor, dead: Tensor
) -> Folded:
    """Fold gain and bias as the exporter does (:mod:`export.passes.convolution`).

    Args:
        gain: float32 (C,).
        bias: float32 (C,), on the grid of the accumulator.
        scale_in: of the input's codes.
        scales: of the weights, float32 (C,).
        step: of the output's codes.
        dead: bool (C,), whether all weights of the output are 0.
    """
    constant = dead | (gain == 0.0)
    scale = (scales.double() * gain.double().abs()).float()
    scale = torch.where(constant, step / scale_in, scale)
    integers = torch.round(bias.double() / (scale_in.double() * scale.double()))
    codes = torch.round(bias / step).clamp(-FARTHEST, FARTHEST).double()
    return Folded(
        sign=torch.sign(gain),
        bias=torch.where(constant, codes, integers),
        multiplier=(scale_in * scale) / step,
    )


def with_bias(total: Tensor, bias: Tensor) -> Tensor:
    """Integer sums N×C×… plus an integer for each channel, rounded to float32 once; the sums are
    overwritten."""
    bias = bias.view(1, -1, *[1] * (total.dim() - 2))
    if total.is_cpu and float(bias.abs().max()) > EXACT_BIAS:
        return (total.double() + bias).float()
    return total.add_(bias.float())
