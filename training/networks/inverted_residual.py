"""The parts of networks whose residual stream is signed: MobileNetV2's block and its last layer.

The algebra of the integer graph, with S the stream's scale and r_b an odd integer:

- the stream is x = S * k with k in -128 ... 127, held as uint8 k + 128;
- the branch's codes are clamp(round(k / r_b), -2^(b-1), 2^(b-1) - 1) of scale r_b * S, held as
  uint8 with the same zero point 128.  An integer over an odd integer is never halfway between two
  others, so every engine rounds alike;
- the projection's output is rounded to k' of scale S (zero point 128), and the sum is
  clamp(k + k', -128, 127): integers, nothing to round;
- ReLU6 before an unsigned quantizer of scale s is the clamp of codes to 0 ... min(2^b - 1,
  round(6 / s)), for rounding is monotone (:mod:`export.passes.convolution`).
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from training.networks.units import ConvUnit
from training.quantized_layers import quantized_activation
from training.quantizers import ActivationQuantizer, BitWidthSwitch, BranchQuantizer, LearnedScale


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project: MobileNetV2's block (Sandler et al. 2018) in codes.

    The projection is linear, so the stream has signed 8-bit codes; the branch reads it requantized
    to signed b-bit codes; between the three convolutions stand unsigned b-bit codes under ReLU6.
    The sum is there where ``stream_in`` is ``stream_out``.
    """

    CEILING = 6.0

    def __init__(
        self,
        switch: BitWidthSwitch,
        channels_in: int,
        channels_out: int,
        expansion: int,
        stride: int,
        stream_in: LearnedScale,
        stream_out: LearnedScale,
    ) -> None:
        super().__init__()
        adds = stream_in is stream_out
        if not (stream_in.signed and stream_out.signed):
            raise ValueError("linear bottlenecks need streams with signed codes")
        if adds and (stride != 1 or channels_in != channels_out):
            raise ValueError("one scale for input and output means a sum of two equal shapes")
        wide = channels_in * expansion
        self.branch_codes = BranchQuantizer(switch, stream_in)
        self.enter = quantized_activation(self.branch_codes, signed=True)
        one, two = (
            ActivationQuantizer(switch, LearnedScale(switch, stream=False), signed=False)
            for _ in range(2)
        )
        self.expand = ConvUnit(
            switch, self.branch_codes, channels_in, wide, one, kernel=1, ceiling=self.CEILING
        )
        self.depthwise = ConvUnit(
            switch,
            one.scale,
            wide,
            wide,
            two,
            kernel=3,
            stride=stride,
            groups=wide,
            ceiling=self.CEILING,
        )
        last = ActivationQuantizer(switch, stream_out, signed=True)
        self.project = ConvUnit(switch, two.scale, wide, channels_out, last, kernel=1)
        self.stream_quantizer = ActivationQuantizer(switch, stream_out, signed=True)
        self.leave = quantized_activation(self.stream_quantizer, signed=True) if adds else None

    def forward(self, stream: Tensor) -> Tensor:
        branch = self.project(self.depthwise(self.expand(self.enter(stream))))
        return branch if self.leave is None else cast(Tensor, self.leave(stream + branch))


class StreamUnit(nn.Module):
    """A convolution unit that reads an 8-bit stream requantized to b bits."""

    def __init__(
        self,
        switch: BitWidthSwitch,
        stream: LearnedScale,
        channels_in: int,
        channels_out: int,
        output: ActivationQuantizer,
        *,
        kernel: int,
        ceiling: float | None = None,
    ) -> None:
        super().__init__()
        self.branch_codes = BranchQuantizer(switch, stream)
        self.enter = quantized_activation(self.branch_codes, signed=stream.signed)
        self.unit = ConvUnit(
            switch,
            self.branch_codes,
            channels_in,
            channels_out,
            output,
            kernel=kernel,
            ceiling=ceiling,
        )

    def forward(self, stream: Tensor) -> Tensor:
        return cast(Tensor, self.unit(self.enter(stream)))
