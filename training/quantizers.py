"""Quantizers of activations whose bit-width switches at run time: tensor quantizers for Brevitas.

Every quantizer here is a module that Brevitas calls as its ``tensor_quant``: it maps a float32
tensor to ``(fake-quantized tensor, scale, zero point, bit-width)``.  The values are those of
Brevitas' ``RescalingIntQuant`` with the same scale (a test compares them, gradients included).
This project adds the switch: all quantizers of a network read one :class:`BitWidthSwitch`, so
that changing the bit-width of the whole network is one assignment and rebuilds nothing.

Codes are integers: signed ones ``-(2^(b-1) - narrow) ... 2^(b-1) - 1``, unsigned ones
``0 ... 2^b - 1``, at most 127 with ``codes = "int8"``; the zero point of training is always 0.
Bit-width 32 means float: the quantizer returns its input (rectified where the unsigned clamp serves
as the ReLU).

References:
    Esser et al., Learned Step Size Quantization, ICLR 2020 (learned scales and their gradient).
    Yu et al., Any-Precision Deep Neural Networks, AAAI 2021 (one set of weights, many bit-widths).
"""

from __future__ import annotations

import math
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deploy.core.errors import InputError
from training.gradients import FakeQuantize, NoiseBank, NoisyGradient, PowerOfTwo, ScaleGradient
from training.network_spec import FLOAT as FLOAT
from training.network_spec import STREAM_BITS as STREAM_BITS
from training.network_spec import NetworkSettings
from training.steps import rectified_step, residual_ratio

SMALLEST_SCALE = 2.0**-20
"""Lower bound of every scale: keeps a dead channel's division finite."""

StraightThrough = Literal["clipped", "rectified", "identity"]
STRAIGHT_THROUGH: tuple[StraightThrough, ...] = get_args(StraightThrough)
"""What a quantizer of activations lets through on the way back: the gradient of the values inside
its range (how networks are trained); also of those above it, with the ReLU's gate kept; of all."""

SCALE_MOMENTUM = 0.1
"""Of the running activation scales from statistics, as BatchNorm's default."""

QuantizerOutput = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]


class BitWidthSwitch:
    """The bit-width that all quantizers of one network currently use.

    ``spec`` is that of the network.  ``gradient_noise`` is the relative strength of the noise, read
    from ``noise``, that GIR adds to the gradients that leave the activation quantizers while
    training (0: none).  ``straight_through`` is an attacker's choice of the quantizers' gradient;
    training does not change it.
    """

    def __init__(self, spec: NetworkSettings) -> None:
        self.spec = spec
        self.active = spec.bit_widths[0]
        self.gradient_noise = 0.0
        self.noise: NoiseBank | None = None
        self.straight_through: StraightThrough = "clipped"

    @property
    def quantized(self) -> bool:
        """Whether the active bit-width is an integer one."""
        return self.active != FLOAT

    def held_bits(self, bits: int, *, signed: bool) -> int:
        """The bits that codes of ``bits`` bits have: one less for unsigned 8-bit ones in int8."""
        in_int8 = self.spec.codes == "int8" and not signed and bits == STREAM_BITS
        return bits - 1 if in_int8 else bits

    def code_range(self, bits: int, *, signed: bool) -> tuple[int, int]:
        """Smallest and largest code of ``bits`` bits in this network."""
        return code_range(self.held_bits(bits, signed=signed), signed=signed)

    def largest_code(self, bits: int) -> int:
        """The largest magnitude of codes of ``bits`` bits whose scale is meant for unsigned codes;
        signed codes that share it reach 128."""
        top = self.code_range(bits, signed=False)[1]
        return max(top, 2 ** (bits - 1)) if bits == STREAM_BITS else top

    def set(self, bits: int) -> None:
        """Make ``bits`` the active bit-width; ``InputError`` if the network does not have it."""
        if bits not in self.spec.bit_widths:
            raise InputError(
                f"this network was not trained at bit-width {bits}; it has "
                f"{', '.join(map(str, self.spec.bit_widths))}"
            )
        self.active = bits


def quantize_activation(
    switch: BitWidthSwitch, x: Tensor, scale: Tensor, low: int, high: int
) -> Tensor:
    """clamp(round(x / scale), low, high) * scale with the switch's straight-through gradient."""
    if switch.straight_through == "rectified" and low == 0:
        x = F.relu(x)  # changes no code, and closes the gradient's gate below 0
    passes = switch.straight_through != "clipped"
    return cast(Tensor, FakeQuantize.apply(x, scale, low, high, passes))


class OwnBits:
    """A quantizer's bit-width where a config gives it a separate one in some modes.

    ``own_bits`` maps an active bit-width to the bit-width that this quantizer then has.
    """

    switch: BitWidthSwitch
    own_bits: dict[int, int]

    def assign(self, mode: int, bits: int) -> None:
        """Use ``bits`` bits whenever the network is at ``mode``."""
        self.own_bits[mode] = bits

    def switched_bits(self) -> int:
        """The bit-width now: the quantizer's own, or the network's."""
        return self.own_bits.get(self.switch.active, self.switch.active)


class LearnedScale(nn.Module, OwnBits):
    """One learned scale per bit-width, set from the first batch that each bit-width sees.

    ``codes_bits`` maps the active bit-width to that of the codes (the residual stream has 8-bit
    codes at every bit-width).  Sharing one instance between quantizers makes their scales equal,
    which the integer residual add needs to be exact.  A ``signed`` instance serves a stream of
    signed codes: its first batch is fitted to a magnitude with one bit less.

    With activation scales from statistics no gradient reaches it: each batch moves it towards the
    scale that suits that batch, like BatchNorm's running statistics.

    In an exact network the scale is the power of two nearest to that value.
    """

    def __init__(self, switch: BitWidthSwitch, *, stream: bool, signed: bool = False) -> None:
        super().__init__()
        self.switch = switch
        self.stream = stream
        self.signed = signed
        self.own_bits = {}
        for bits in switch.spec.bit_widths:
            if bits != FLOAT:
                self.register_parameter(f"scale_{bits}", nn.Parameter(torch.tensor(1.0)))
                self.register_buffer(f"ready_{bits}", torch.tensor(False))
        self._ready: set[int] = set()
        self._seen: list[Tensor] = []

    def codes_bits(self) -> int:
        """Bit-width of the codes at the active bit-width."""
        return STREAM_BITS if self.stream else self.switched_bits()

    def odd_part(self) -> int:
        """1: the scale of an exact network is a power of two."""
        return 1

    def reach(self) -> int:
        """The largest magnitude of a code, at the active bit-width."""
        bits = self.codes_bits()
        return 2 ** (bits - 1) if self.signed else self.switch.largest_code(bits)

    def _top_bits(self) -> int:
        """Bits of the largest code."""
        bits = self.switch.held_bits(self.codes_bits(), signed=self.signed)
        return bits - int(self.signed)

    def is_ready(self, bits: int) -> bool:
        """Whether the scale of ``bits`` has been set from a batch; float needs none."""
        ready = bits == FLOAT or bits in self._ready
        return ready or bool(cast(Tensor, getattr(self, f"ready_{bits}")))

    def value(self) -> Tensor:
        """The positive scale of the active bit-width, a float32 scalar."""
        raw = cast(Tensor, getattr(self, f"scale_{self.switch.active}"))
        scale = raw.abs().clamp_min(SMALLEST_SCALE)
        return cast(Tensor, PowerOfTwo.apply(scale)) if self.switch.spec.exact else scale

    def fitted(self, x: Tensor) -> Tensor:
        """The scale, with LSQ's gradient factor.

        At its first use in training it is initialised from ``x`` (optimal for a rectified Gaussian
        with the mean of ``x``'s positive part).  A scale from statistics also follows each later
        batch and has no gradient.
        """
        bits = self.switch.active
        learned = self.switch.spec.activation_scales == "learned"
        if self.training and (bits not in self._ready or not learned):
            ready = cast(Tensor, getattr(self, f"ready_{bits}"))
            if not bool(ready):
                self._active().copy_(self._suits(x))
                ready.fill_(True)
            elif not learned:
                self._seen.append(self._suits(x))
            self._ready.add(bits)
        scale = self.value()
        if not learned:
            return scale.detach()
        if self.training and scale.requires_grad:
            per_sample = max(1, x.numel() // max(1, x.shape[0]))
            top = 2 ** self._top_bits() - 1
            scale = cast(Tensor, ScaleGradient.apply(scale, 1.0 / math.sqrt(per_sample * top)))
        return scale

    @torch.no_grad()
    def follow(self) -> None:
        """After a forward pass, move a scale from statistics towards the scale that suits the
        tensors of that pass.

        It moves once, however many tensors share it, so that all of them had the same scale.
        """
        if self._seen:
            suits = torch.stack(self._seen).mean()
            self._active().lerp_(suits, SCALE_MOMENTUM)
            self._seen.clear()

    @torch.no_grad()
    def _suits(self, x: Tensor) -> Tensor:
        """The scale that suits ``x`` at the active bit-width."""
        step = rectified_step(self._top_bits())
        return (x.clamp_min(0.0).mean() * step).clamp_min(SMALLEST_SCALE)

    def _active(self) -> Tensor:
        return cast(Tensor, getattr(self, f"scale_{self.switch.active}")).detach()


def code_range(bits: int, *, signed: bool) -> tuple[int, int]:
    """Smallest and largest code of ``bits`` bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


class ActivationQuantizer(nn.Module):
    """Quantizer of activations; unsigned unless ``signed``: the unsigned clamp is the ReLU.

    At bit-width 32 it is a ReLU (unsigned) or the identity (signed).
    """

    def __init__(self, switch: BitWidthSwitch, scale: LearnedScale, *, signed: bool) -> None:
        super().__init__()
        self.switch = switch
        self.scale = scale
        self.signed = signed

    def forward(self, x: Tensor) -> QuantizerOutput:
        if not self.switch.quantized:
            return (x if self.signed else F.relu(x)), None, None, None
        switch = self.switch
        if self.training and switch.noise is not None and switch.gradient_noise > 0.0:
            x = cast(Tensor, NoisyGradient.apply(x, switch.gradient_noise, switch.noise))
        scale = self.scale.fitted(x)
        bits = switch.held_bits(self.scale.codes_bits(), signed=self.signed)
        low, high = code_range(bits, signed=self.signed)
        y = quantize_activation(self.switch, x, scale, low, high)
        return y, scale, scale.new_zeros(()), scale.new_tensor(float(bits))


class BranchQuantizer(nn.Module, OwnBits):
    """Requantizes the 8-bit residual stream to the b-bit codes that a block's convolutions read.

    scale_b = ratio_b * S with S the stream's scale and ratio_b an odd integer
    (:func:`training.steps.residual_ratio`), so no stream code is ever halfway between two branch
    codes.  At 8 bits the branch reads the stream as it is.  A signed stream has signed branch codes
    -2^(b-1) ... 2^(b-1) - 1.
    """

    def __init__(self, switch: BitWidthSwitch, stream: LearnedScale, *, signed: bool) -> None:
        super().__init__()
        self.switch = switch
        self.stream = stream
        self.signed = signed
        self.own_bits = {}

    def value(self) -> Tensor:
        """The branch's scale at the active bit-width, a float32 scalar."""
        return self.stream.value() * self.odd_part()

    def codes_bits(self) -> int:
        """Bit-width of the codes: the active one, or the quantizer's own."""
        return self.switched_bits()

    def odd_part(self) -> int:
        """The scale in units of the stream's, an odd integer."""
        return residual_ratio(
            self.codes_bits(), self.switch.held_bits(STREAM_BITS, signed=self.signed)
        )

    def reach(self) -> int:
        """The largest magnitude of a code in units of the stream's scale."""
        low, high = self.switch.code_range(self.codes_bits(), signed=self.signed)
        return self.odd_part() * max(-low, high)

    def forward(self, x: Tensor) -> QuantizerOutput:
        bits = self.codes_bits()
        if bits in (FLOAT, STREAM_BITS):
            return x, None, None, None
        scale = self.stream.fitted(x) * self.odd_part()
        low, high = code_range(bits, signed=self.signed)
        y = quantize_activation(self.switch, x, scale, low, high)
        return y, scale, scale.new_zeros(()), scale.new_tensor(float(bits))


class ConstantScale(nn.Module):
    """A constant scale of 8-bit codes; ``reach`` is their largest magnitude."""

    def __init__(self, scale: float, reach: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self._reach = reach

    def value(self) -> Tensor:
        """The scale, a float32 scalar."""
        return cast(Tensor, self.scale)

    def codes_bits(self) -> int:
        """Always 8."""
        return STREAM_BITS

    def odd_part(self) -> int:
        """1: in an exact network the scale is a power of two."""
        return 1

    def reach(self) -> int:
        """The largest magnitude of a code."""
        return self._reach


class PixelQuantizer(ConstantScale):
    """Quantizer of the normalised image: scale 2^-6, signed 8 bits; the codes are byte - 128.

    At bit-width 32 it is the identity.
    """

    SCALE = 2.0**-6

    def __init__(self, switch: BitWidthSwitch) -> None:
        super().__init__(self.SCALE, 128)
        self.switch = switch

    def forward(self, x: Tensor) -> QuantizerOutput:
        if not self.switch.quantized:
            return x, None, None, None
        scale = self.value()
        y = cast(Tensor, FakeQuantize.apply(x, scale, -128, 127, False))
        return y, scale, scale.new_zeros(()), scale.new_tensor(8.0)
