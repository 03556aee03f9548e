"""Functions whose gradient is chosen: straight-through quantization, scaled and noisy identities.

References:
    Bengio, Leonard, Courville, Estimating or Propagating Gradients Through Stochastic Neurons for
    Conditional Computation, 2013.
    Esser et al., Learned Step Size Quantization, ICLR 2020.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from training.exact import nearest_power_of_two


class FakeQuantize(torch.autograd.Function):
    """clamp(round(x / scale), low, high) * scale with straight-through gradients.

    Forward: ``x`` float32 of any shape, ``scale`` a positive scalar tensor or one that broadcasts
    to ``x``; the same operations, in the same order, as Brevitas' ``IntQuant``.

    Backward, with y the output and inside = (low - 1/2 < x / scale < high + 1/2):
    dx = g * inside (or g everywhere with ``pass_clipped``, which then has no scale gradient) and

        dscale = sum g * (code - inside * x / scale) = (<g, y> - <dx, x>) / scale,

    the gradient of Learned Step Size Quantization (Esser et al., 2020, eq. 3) as two inner
    products: three passes over memory instead of nine.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, low: int, high: int, pass_clipped: bool
    ) -> Tensor:
        y = torch.div(x, scale).round_().clamp_(low, high).mul_(scale)
        ctx.low, ctx.high, ctx.pass_clipped = low, high, pass_clipped
        if not pass_clipped:
            ctx.save_for_backward(x, scale, y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        if ctx.pass_clipped:
            return gradient, None, None, None, None
        x, scale, y = ctx.saved_tensors
        # The borders move with the scale, but the gradient jumps there: none flows through them
        # when a penalty on gradients differentiates this once more.
        step = scale.detach()
        low, high = (ctx.low - 0.5) * step, (ctx.high + 0.5) * step
        if x.is_cpu and scale.numel() == 1:
            to_x = inside(gradient, x, float(low), float(high))
        else:
            to_x = torch.where((x > low) & (x < high), gradient, 0.0)
        to_scale = None
        if ctx.needs_input_grad[1] and scale.numel() > 1:
            to_scale = (gradient * y - to_x * x).sum_to_size(scale.shape) / scale
        elif ctx.needs_input_grad[1]:
            to_scale = (inner_product(gradient, y) - inner_product(to_x, x)) / scale
        return to_x, to_scale, None, None, None


def inside(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """The gradient where ``low < x < high``, else 0, in one pass over memory."""
    return cast(Tensor, torch.ops.aten.hardtanh_backward(gradient, x, low, high))


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """sum a * b without a temporary where both lie in memory in the same order."""
    last = torch.channels_last
    if a.dim() == 4 and a.is_contiguous(memory_format=last) and b.is_contiguous(memory_format=last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    if a.is_contiguous() and b.is_contiguous():
        return torch.dot(a.reshape(-1), b.reshape(-1))
    return (a * b).sum()


class ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by ``factor`` (LSQ's 1 / sqrt(N * Q))."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return scale.view_as(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class PowerOfTwo(torch.autograd.Function):
    """The nearest power of two p of a positive scale s, with the gradient of s: straight through
    the rounding of log2 s, which leaves dp/ds = p / s, between 0.7 and 1.5.

    Jain et al., Trained Quantization Thresholds, MLSys 2020.
    """

    @staticmethod
    def forward(ctx: Any, scale: Tensor) -> Tensor:
        power = nearest_power_of_two(scale)
        ctx.save_for_backward(power / scale)
        return power

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (ratio,) = ctx.saved_tensors
        return gradient * ratio


class NoiseBank:
    """Gaussian noise drawn once and read at random offsets, at a 20th of the cost of fresh draws.

    ``offset`` draws from ``generator``, which the defense sets at each step, so the noise is a
    function of (seed, step).  Within a step two tensors of one network share an offset only by
    chance; the values repeat only after the bank's whole length.
    """

    def __init__(self, generator: torch.Generator, length: int = 1 << 23) -> None:
        self.generator = generator
        self.bank = torch.randn(length, generator=generator, device=generator.device)

    def like(self, x: Tensor) -> Tensor:
        """Standard normal noise of the shape and memory order of ``x``."""
        count = x.numel()
        if count >= self.bank.numel():
            return torch.randn(x.shape, generator=self.generator, device=x.device)
        room = self.bank.numel() - count
        offset = int(torch.randint(room, (), generator=self.generator, device=self.bank.device))
        flat = self.bank[offset : offset + count]
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            n, c, h, w = x.shape
            return flat.view(n, h, w, c).permute(0, 3, 1, 2)
        return flat.view(x.shape)


class NoisyGradient(torch.autograd.Function):
    """Identity whose gradient gets Gaussian noise of ``strength`` times its own RMS (GIR)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float, noise: NoiseBank) -> Tensor:
        ctx.strength, ctx.noise = strength, noise
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        size = (inner_product(gradient, gradient) / gradient.numel()).sqrt() * ctx.strength
        return torch.addcmul(gradient, ctx.noise.like(gradient), size), None, None
