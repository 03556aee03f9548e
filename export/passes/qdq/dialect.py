"""How a Q/DQ runtime wants codes: the two dialects, and the quantizer that both write.

A quantizer of a tensor x with step s and codes low … high is written as

    [clamp] → QuantizeLinear(s, zero point 0) → [clamp of codes] → DequantizeLinear(s, zero point 0)

Rounding and division by s > 0 are monotone, so clamping values to low·s … high·s before rounding
equals clamping codes to low … high behind it; which of the two is written is the dialect's choice.

``SIGNED`` (TensorRT): int8 throughout. TensorRT reads a uint8 zero point as int8 without a word,
so codes above 127 would saturate: there is no uint8 here. Codes of b ≤ 7 unsigned bits are
0 … 2^b - 1 as they are. Unsigned 8-bit codes 0 … 255 of step s become 0 … 127 of step 2 s: the same
range, less its last code, at half the resolution; a branch that reads them at r·s with an odd r
still never rounds a tie, because 2k / r is no half. What is added to such a stream, signed codes
-128 … 127 of step s, becomes -64 … 63 of step 2 s: summands and sum share one step, as in the
all-integer graph, and the sum of codes is exact. (At its own step, every second sum would be a tie
at 2 s, and engines that multiply by 1 / s in float32 break ties as they please: measured on
ResNet-8, 4% of the predictions at 2 bits.) The clamp is a float Clip (or Relu) before
QuantizeLinear, which the compiler fuses into the operator before it.

``STANDARD`` (any other runtime): unsigned codes are uint8, signed codes int8, both with zero point
0, and codes narrower than their type are clamped by a float Clip as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.passes.qonnx_graph import QonnxGraph, Quantizer
from export.passes.rule import Clamp, Codes, Context

INT8 = (-128, 127)
UINT8 = (0, 255)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One way to write quantizers.

    Attributes:
        name: for the log.
        signed_only: every tensor of codes is int8, unsigned ones too.
        bias_on_grid: biases are multiples of the accumulator's step, as in the all-integer graph;
            otherwise they stay the values they are (int8 codes of a doubled step have a coarser
            grid than the network was trained with, and float biases need none).
        relu_before_requantizing: a Relu that changes nothing stands before a change of step of
            unsigned codes (:mod:`export.passes.qdq.requantize`).
    """

    name: str
    signed_only: bool
    bias_on_grid: bool
    relu_before_requantizing: bool

    def output_codes(
        self, quantizer: Quantizer, clamp: Clamp, source: QonnxGraph, layer: str
    ) -> Codes:
        """The codes that the quantizer of ``layer`` behind a clamp gives here, not named yet."""
        low, high = quantizer.code_range()
        scale = np.float32(quantizer.scale.item())
        if self.signed_only and (high > INT8[1] or _joins_halved_sum(source, layer, scale)):
            scale, low, high = np.float32(2.0) * scale, -(-low // 2), high // 2
        for_low = np.clip(np.rint(np.float32(clamp.low) / scale), low, high)
        for_high = np.clip(np.rint(np.float32(clamp.high) / scale), low, high)
        return Codes(name="", scale=scale, zero_point=0, low=int(for_low), high=int(for_high))

    def signed(self, quantizer: Quantizer) -> bool:
        """Whether the codes are stored as int8."""
        return self.signed_only or quantizer.signed


def _joins_halved_sum(source: QonnxGraph, layer: str, scale: np.float32) -> bool:
    """Whether ``layer`` is a summand of a sum of the same step whose codes are unsigned 8-bit."""
    for add in source.readers(layer):
        name = add.output[0] if add.op_type == "Add" else ""
        while name:
            (reader, *others) = source.readers(name) or (None,)
            if reader is None or others:
                break
            if source.is_quant(reader):
                quantizer = source.quantizer(reader)
                if quantizer.code_range()[1] > INT8[1] and quantizer.scale.size == 1:
                    return bool(np.float32(quantizer.scale.item()) == scale)
                break
            name = reader.output[0] if reader.op_type in ("Relu", "Clip") else ""
    return False


SIGNED = Dialect(
    name="signed int8", signed_only=True, bias_on_grid=False, relu_before_requantizing=False
)
STANDARD = Dialect(
    name="uint8 and int8", signed_only=False, bias_on_grid=True, relu_before_requantizing=True
)


def write_quantizer(
    context: Context, dialect: Dialect, x: str, quantizer: Quantizer, clamp: Clamp, layer: str
) -> Codes:
    """Append the quantizer behind the float tensor ``x``; register and give its codes.

    The DequantizeLinear node has the layer's name: its output is what the next layer reads.
    """
    codes = dialect.output_codes(quantizer, clamp, context.source, layer)
    signed = dialect.signed(quantizer)
    low, high = INT8 if signed else UINT8
    builder = context.builder
    if codes.low == 0 and codes.high == high and low < 0:
        x = builder.add("Relu", [x], f"{layer}.clamp")
    elif (codes.low, codes.high) != (low, high):
        bounds = [np.float32(codes.low) * codes.scale, np.float32(codes.high) * codes.scale]
        x = builder.add(
            "Clip", [x, *(builder.constant(b, "bound") for b in bounds)], f"{layer}.clamp"
        )
    name = quantized_and_back(context, x, codes.scale, layer, signed=signed)
    named = Codes(name=name, scale=codes.scale, zero_point=0, low=codes.low, high=codes.high)
    context.codes[layer] = named
    return named


def quantized_and_back(
    context: Context, x: str, scale: np.float32, layer: str, *, signed: bool
) -> str:
    """Append QuantizeLinear and DequantizeLinear of one step with zero point 0; the output."""
    builder = context.builder
    zero = np.int8(0) if signed else np.uint8(0)
    parameters = [
        builder.constant(scale, "s"),
        builder.constant(zero, f"{layer}.z", shared=not signed),
    ]
    quantized = builder.add("QuantizeLinear", [x, *parameters], f"{layer}.q")
    return builder.add("DequantizeLinear", [quantized, *parameters], layer)


def described(codes: Codes) -> str:
    """Text for the log, such as ``codes 0…15 of 0.125``."""
    return f"codes {codes.low}…{codes.high} of {codes.scale:.6g}"
