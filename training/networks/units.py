"""The parts that networks are made of: convolution units, the residual block, the head.

Each part keeps what the exporter needs to know beside it: which quantizer's codes it reads
(``source``) and which quantizer its output goes through.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.exact import Folding
from training.quantized_layers import (
    quantized_activation,
    quantized_convolution,
    quantized_linear,
    weight_quantizer,
)
from training.quantizers import (
    FLOAT,
    SMALLEST_SCALE,
    STREAM_BITS,
    ActivationQuantizer,
    BitWidthSwitch,
    BranchQuantizer,
    LearnedScale,
    QuantizerOutput,
    quantize_activation,
)


class CodeSource(Protocol):
    """Whatever a layer's input codes come from."""

    def value(self) -> Tensor:
        """The scale of the codes at the active bit-width, a positive float32 scalar."""

    def codes_bits(self) -> int:
        """The bit-width of the codes at the active bit-width."""

    def odd_part(self) -> int:
        """In an exact network, the scale divided by the power of two in it."""

    def reach(self) -> int:
        """The largest magnitude of a code, times :meth:`odd_part`."""


def bias_on_grid(bias: Tensor, grid: Tensor) -> Tensor:
    """``bias`` (C,) rounded to multiples of ``grid`` (C,), as an int32 bias of that scale holds it.

    Computed in float64; channels whose grid is 0 (a BatchNorm gain of 0) keep their bias.
    """
    wide, step = bias.double(), grid.double()
    rounded = torch.where(step > 0.0, torch.round(wide / step.clamp_min(1e-300)) * step, wide)
    # An integer has no -0: neither has a bias.
    return rounded.to(bias.dtype) + 0.0


def folding_of(gain: Tensor | None, bias: Tensor, source: CodeSource) -> Folding:
    """What the weight quantizer of an exact network must know of a layer that reads ``source``."""
    unit = source.value().detach() / source.odd_part()
    return Folding(gain=gain, bias=bias, unit=unit, reach=source.reach())


class SwitchableBatchNorm2d(nn.Module):
    """One BatchNorm per bit-width (Any-Precision DNNs, Yu et al. 2021).

    In evaluation at an integer bit-width the folded bias beta - mean * gamma / sigma is rounded to
    the grid of the integer accumulator, so the fake-quantized network is the one that is exported.
    In an exact network the gain is in the weights by then, and the bias alone is added.
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

        In float64 with + - * / and square root alone, each correctly rounded by IEEE 754, and then
        rounded once: the same bits on every machine, and in what is exported.
        """
        norm = self.active()
        assert norm.running_mean is not None and norm.running_var is not None
        gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        bias = norm.bias.double() - norm.running_mean.double() * gain
        return gain.to(norm.weight.dtype), bias.to(norm.bias.dtype)

    def forward(self, x: Tensor, accumulator_scale: Tensor | None) -> Tensor:
        """``x`` N×C×H×W; ``accumulator_scale`` (C,): input times weight scale; None in float."""
        if self.training:
            return cast(Tensor, self.active()(x))
        gain, bias = self.gain_and_bias()
        if accumulator_scale is not None:
            if self.switch.spec.exact:
                return x + bias_on_grid(bias, accumulator_scale).view(1, -1, 1, 1)
            bias = bias_on_grid(bias, accumulator_scale * gain.abs())
        return torch.addcmul(bias.view(1, -1, 1, 1), x, gain.view(1, -1, 1, 1))


class ConvUnit(nn.Module):
    """Convolution → BatchNorm → quantizer; reads the codes of ``source``.

    An unsigned quantizer's clamp at 0 is the ReLU.  ``ceiling`` bounds it from above too (6 makes
    it ReLU6), in float and before the quantizer alike; on codes it is one more clamp
    (:mod:`export.passes.convolution`).
    """

    def __init__(
        self,
        switch: BitWidthSwitch,
        source: CodeSource,
        channels_in: int,
        channels_out: int,
        output: ActivationQuantizer,
        *,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
        ceiling: float | None = None,
        fixed_bits: int | None = None,
    ) -> None:
        super().__init__()
        if ceiling is not None and output.signed:
            raise ValueError("a ceiling belongs to a rectified output, this one is signed")
        self.switch = switch
        self.source = source
        self.ceiling = ceiling
        self.conv = quantized_convolution(
            switch,
            channels_in,
            channels_out,
            kernel=kernel,
            stride=stride,
            groups=groups,
            padding=padding,
            fixed_bits=fixed_bits,
        )
        self.norm = SwitchableBatchNorm2d(switch, channels_out)
        self.output = output
        self.quantize = quantized_activation(output, signed=output.signed)
        if switch.spec.exact:
            weight_quantizer(self.conv).folding = self.folding

    @torch.no_grad()
    def folding(self) -> Folding:
        """For the weight quantizer of an exact network, at the active bit-width."""
        gain, bias = self.norm.gain_and_bias()
        return folding_of(gain, bias, self.source)

    def accumulator_scale(self) -> Tensor | None:
        """Scale of the integer accumulator per output channel, (C,); None in float."""
        if not self.switch.quantized:
            return None
        return (self.source.value() * weight_quantizer(self.conv).value()).detach()

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.switch.quantized:
            scale = None if self.training else self.accumulator_scale()
            y = self.norm(self.conv(x), scale)
        else:  # in float the BatchNorm goes into the convolution, as it does in the float file
            y = self.conv(x, *self.norm.gain_and_bias())
        if self.ceiling is not None:
            y = F.hardtanh(y, 0.0, self.ceiling)
        return cast(Tensor, self.quantize(y))


class MaxPool(nn.Module):
    """Largest value of each window; on codes the largest code, so scale and range stay."""

    def __init__(self, *, kernel: int, stride: int, padding: int = 0) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        self.padding = padding

    def size_after(self, size: int) -> int:
        """Side of the output for an input of side ``size``, both in pixels."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel, self.stride, self.padding)


class ResidualBlock(nn.Module):
    """A branch of convolutions and a shortcut on an 8-bit residual stream.

    The branch reads the stream requantized to b bits; both summands and the sum share the scale of
    the outgoing stream, so the integer add is exact and its clamp is the ReLU.  Where stride or
    width changes, the shortcut is a 1×1 convolution of the same b-bit codes.

    The branch is two 3×3 convolutions, or with ``bottleneck`` channels a 1×1, a 3×3 of that width
    and a 1×1 (He et al. 2016); the stride lies in the first 3×3 convolution.
    """

    def __init__(
        self,
        switch: BitWidthSwitch,
        channels_in: int,
        channels_out: int,
        stride: int,
        stream_in: LearnedScale,
        stream_out: LearnedScale,
        *,
        bottleneck: int | None = None,
    ) -> None:
        super().__init__()
        self.branch_codes = BranchQuantizer(switch, stream_in)
        self.enter = quantized_activation(self.branch_codes)

        def hidden() -> ActivationQuantizer:
            scale = LearnedScale(switch, stream=False)
            return ActivationQuantizer(switch, scale, signed=False)

        last = ActivationQuantizer(switch, stream_out, signed=True)
        source, one = self.branch_codes, hidden()
        self.third: ConvUnit | None = None
        if bottleneck is None:
            self.first = ConvUnit(
                switch, source, channels_in, channels_out, one, kernel=3, stride=stride
            )
            self.second = ConvUnit(switch, one.scale, channels_out, channels_out, last, kernel=3)
        else:
            inner, two = bottleneck, hidden()
            self.first = ConvUnit(switch, source, channels_in, inner, one, kernel=1)
            self.second = ConvUnit(switch, one.scale, inner, inner, two, kernel=3, stride=stride)
            self.third = ConvUnit(switch, two.scale, inner, channels_out, last, kernel=1)
        self.shortcut: ConvUnit | None = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = ConvUnit(
                switch,
                self.branch_codes,
                channels_in,
                channels_out,
                ActivationQuantizer(switch, stream_out, signed=True),
                kernel=1,
                stride=stride,
            )
        self.stream_quantizer = ActivationQuantizer(switch, stream_out, signed=False)
        self.leave = quantized_activation(self.stream_quantizer)

    def forward(self, stream: Tensor) -> Tensor:
        codes = self.enter(stream)
        kept = stream if self.shortcut is None else self.shortcut(codes)
        branch = self.second(self.first(codes))
        if self.third is not None:
            branch = self.third(branch)
        return cast(Tensor, self.leave(kept + branch))


class PooledQuantizer(nn.Module):
    """8-bit codes of the average over ``positions`` stream codes.

    Scale = S * (n + 1) / n for an even n and S for an odd one: the average of n codes divided by
    that ratio is (sum of codes) / odd, which is never halfway between two codes.

    In an exact network the ratio must be short in binary: (t + 1) / t, with t the power of two in
    n, has the same property; and it is 1 where n is itself a power of two, for then the mean is
    exact in float32, and halves go to the even code in every arithmetic.
    """

    def __init__(self, switch: BitWidthSwitch, stream: LearnedScale, positions: int) -> None:
        super().__init__()
        self.switch = switch
        self.stream = stream
        self.positions = positions

    def value(self) -> Tensor:
        """The scale of the pooled codes, a float32 scalar."""
        n = self.positions
        if self.switch.spec.exact:
            return self.stream.value() * (self.odd_part() / (self.odd_part() - 1 or 1))
        return self.stream.value() * ((n + 1) / n if n % 2 == 0 else 1.0)

    def odd_part(self) -> int:
        """In an exact network, the scale divided by the power of two in it."""
        power = self.positions & -self.positions
        return 1 if power in (1, self.positions) else power + 1

    def reach(self) -> int:
        """The largest code times :meth:`odd_part`."""
        return 255 * self.odd_part()

    def codes_bits(self) -> int:
        """Always 8."""
        return STREAM_BITS

    def forward(self, x: Tensor) -> QuantizerOutput:
        if not self.switch.quantized:
            return x, None, None, None
        scale = self.value()
        y = quantize_activation(self.switch, x, scale.detach(), 0, 255)
        return y, scale, scale.new_zeros(()), scale.new_tensor(8.0)


class Head(nn.Module):
    """Global average pool → 8-bit codes → 8-bit linear layer → float logits."""

    def __init__(
        self,
        switch: BitWidthSwitch,
        stream: LearnedScale,
        *,
        channels: int,
        positions: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.switch = switch
        self.pooled_codes = PooledQuantizer(switch, stream, positions)
        self.quantize = quantized_activation(self.pooled_codes)
        self.linear = quantized_linear(switch, channels, classes)
        self.bias = nn.Parameter(torch.zeros(classes))
        if switch.spec.exact:
            weight_quantizer(self.linear).folding = self.folding

    @torch.no_grad()
    def folding(self) -> Folding:
        """For the weight quantizer of an exact network, at the active bit-width."""
        return folding_of(None, self.bias, self.pooled_codes)

    def accumulator_scale(self) -> Tensor:
        """Scale of the integer accumulator per class, (classes,)."""
        scales = self.pooled_codes.value() * weight_quantizer(self.linear).value()
        return scales.detach().clamp_min(SMALLEST_SCALE * SMALLEST_SCALE)

    def forward(self, stream: Tensor) -> Tensor:
        logits = self.linear(self.quantize(stream.mean(dim=(2, 3))))
        if self.training or self.switch.active == FLOAT:
            return cast(Tensor, logits + self.bias)
        return cast(Tensor, logits + bias_on_grid(self.bias, self.accumulator_scale()))
