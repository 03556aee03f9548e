"""Where the scales of codes come from, when no quantizer of their own learns them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from training.quantize.integers import Grid
from training.quantizers import (
    STREAM_BITS,
    ActivationQuantizer,
    BitWidthSwitch,
    ConstantScale,
    QuantizerOutput,
    code_range,
    quantize_activation,
)


class ScaleSource(Protocol):
    """The source of the scale of a tensor of codes."""

    def value(self) -> Tensor:
        """The scale of the codes at the active bit-width, a positive float32 scalar."""

    def codes_bits(self) -> int:
        """The bit-width of the codes at the active bit-width."""

    def odd_part(self) -> int:
        """In an exact network, the scale divided by the power of two in it."""

    def reach(self) -> int:
        """The largest magnitude of a code, times :meth:`odd_part`."""


class GateScale(ConstantScale):
    """1/255: the codes of a gate are 0 … 255 for 0 … 1; 1/127 and 0 … 127 in int8."""

    def __init__(self, switch: BitWidthSwitch) -> None:
        _, one = switch.code_range(STREAM_BITS, signed=False)
        super().__init__(1.0 / one, one)


class PooledScale(nn.Module):
    """The scale of averages over ``positions`` codes.

    It is S (n + 1) / n for an even n and S for an odd one: the average of n codes over that ratio
    is (sum of codes) / odd, never halfway between two codes.  In an exact network the ratio must
    have few binary digits: (t + 1) / t, with t the power of two in n, has the same property.  It is
    1 where n itself is a power of two, because the mean is then exact in float32.
    """

    def __init__(self, switch: BitWidthSwitch, stream: ScaleSource, positions: int) -> None:
        super().__init__()
        self.switch = switch
        self._stream = (stream,)  # not a submodule: another module owns the scale
        self.positions = positions

    def value(self) -> Tensor:
        """The scale of the averages, a float32 scalar."""
        n, stream = self.positions, self._stream[0].value()
        if self.switch.spec.exact:
            return stream * (self.odd_part() / (self.odd_part() - 1 or 1))
        return stream * ((n + 1) / n if n % 2 == 0 else 1.0)

    def odd_part(self) -> int:
        """In an exact network, the scale divided by the power of two in it."""
        power = self.positions & -self.positions
        return 1 if power in (1, self.positions) else power + 1

    def reach(self) -> int:
        """The largest code times :meth:`odd_part`."""
        return self.switch.largest_code(STREAM_BITS) * self.odd_part()

    def codes_bits(self) -> int:
        """Always 8."""
        return STREAM_BITS


class FixedQuantizer(nn.Module):
    """8-bit codes whose scale follows from another scale or is constant."""

    def __init__(self, switch: BitWidthSwitch, source: ScaleSource, *, signed: bool) -> None:
        super().__init__()
        self.switch = switch
        self.source = source
        self.signed = signed

    def forward(self, x: Tensor) -> QuantizerOutput:
        if not self.switch.quantized:
            return x, None, None, None
        scale = self.source.value()
        bits = self.switch.held_bits(STREAM_BITS, signed=self.signed)
        low, high = code_range(bits, signed=self.signed)
        y = quantize_activation(self.switch, x, scale.detach(), low, high)
        return y, scale, scale.new_zeros(()), scale.new_tensor(float(bits))


def grid_of(
    output: ActivationQuantizer | FixedQuantizer,
    *,
    floor: float | None = None,
    ceiling: float | None = None,
) -> Grid:
    """The grid of a quantizer at the active bit-width, after a clamp."""
    source: ScaleSource = output.scale if isinstance(output, ActivationQuantizer) else output.source
    low, high = output.switch.code_range(source.codes_bits(), signed=output.signed)
    return Grid(
        step=source.value().detach(),
        low=low,
        high=high,
        floor=floor,
        ceiling=ceiling,
        straight_through=output.switch.straight_through,
    )
