"""The quantizer that the Q/DQ targets write, in two dialects.

A quantizer of a tensor x with step s and codes low … high is written as

    [clamp] → QuantizeLinear(s, zero point 0) → DequantizeLinear(s, zero point 0)

Rounding and division by s > 0 are monotone, so clamping values to low·s … high·s before rounding
equals clamping codes to low … high after it.

``SIGNED`` (TensorRT): int8 throughout. TensorRT silently reads a uint8 zero point as int8, so codes
above 127 would saturate; therefore nothing is uint8. Codes of b ≤ 7 unsigned bits stay 0 … 2^b - 1;
a network trained with ``codes = "int8"`` has no others. Unsigned 8-bit codes 0 … 255 of step s
become 0 … 127 of step 2 s: the same range, except its last code, at half the resolution. A branch
that reads them at r·s with an odd r still never rounds a tie, because 2k / r is not a half. The
summands of such a stream, signed codes -128 … 127 of step s, become -64 … 63 of step 2 s. Summands
and sum then share one step, as in the all-integer graph, and the sum of codes is exact. (With step
s, every second sum would be a tie at 2 s, and engines that multiply by 1 / s in float32 round ties
either way: measured on ResNet-8, 4% of the predictions at 2 bits changed.) The clamp is a float
Clip (or Relu) before QuantizeLinear, which the compiler fuses into the operator before it.

``STANDARD`` (any other runtime): unsigned codes are uint8, signed codes int8, both with zero point
0, and codes narrower than their type are clamped by a float Clip as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.graph_builder import GraphBuilder
from export.passes.qonnx_graph import QonnxGraph, Quantizer
from export.passes.rule import Clamp, Codes, Context, Found, Refusal

INT8 = (-128, 127)
UINT8 = (0, 255)


def value_codes(quantizer: Quantizer, clamp: Clamp, context: Context, layer: str) -> Codes:
    """The codes of the quantizer of ``layer`` after a clamp in a Q/DQ graph, with zero point 0 and
    not named yet.

    Raises:
        Refusal: the codes need another zero point, which the dialect does not have.
    """
    low, high = quantizer.code_range()
    scale = quantizer.step
    halved = high > INT8[1] or _joins_halved_sum(context.source, layer, scale)
    if context.dialect.signed_only and halved:
        scale, low, high = np.float32(2.0) * scale, -(-low // 2), high // 2
    low, high = clamp.codes(low, high, scale)
    zero_point = 0
    if low < INT8[0] or (low < 0 and high > INT8[1]):  # do not fit int8 with zero point 0
        if context.dialect.signed_only:
            raise Refusal(
                f"its codes {low}…{high} of zero point 0 do not fit into int8, and the target "
                "supports no other zero point; quantize activations symmetrically to int8 (ONNX "
                'Runtime: activation_type=QuantType.QInt8, extra_options={"ActivationSymmetric": '
                "True}), or lower to another target"
            )
        zero_point = -low
        low, high = 0, high - low
    return Codes(name="", scale=scale, zero_point=zero_point, low=low, high=high)


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
                    return bool(quantizer.step == scale)
                break
            name = reader.output[0] if reader.op_type in ("Relu", "Clip") else ""
    return False


def quantized(
    x: str, quantizer: Quantizer, clamp: Clamp, layer: str, context: Context
) -> tuple[Codes, str]:
    """Append the quantizer after the float tensor ``x``; returns its codes, and text for the log.

    The DequantizeLinear node has the layer's name, because the next layer reads its output.
    """
    codes = value_codes(quantizer, clamp, context, layer)
    signed = context.dialect.signed_only or codes.low < 0
    if quantizer.zero_point == 0:
        signed = signed or quantizer.signed
    low, high = INT8 if signed and not codes.zero_point else UINT8
    builder = context.builder
    if codes.low == 0 and codes.high == high and low < 0:
        x = builder.add("Relu", [x], f"{layer}.clamp")
    elif (codes.low, codes.high) != (low, high):
        ends = (codes.low - codes.zero_point, codes.high - codes.zero_point)
        bounds = [np.float32(end) * codes.scale for end in ends]
        x = builder.add(
            "Clip", [x, *(builder.constant(b, "bound") for b in bounds)], f"{layer}.clamp"
        )
    name = _quantized_and_back(
        builder,
        x,
        codes.scale,
        layer,
        signed=signed and not codes.zero_point,
        zero_point=codes.zero_point,
    )
    text = f"codes {codes.low}…{codes.high} of {codes.scale:.6g}"
    return replace(codes, name=name), text


def _quantized_and_back(
    builder: GraphBuilder,
    x: str,
    scale: np.float32,
    layer: str,
    *,
    signed: bool,
    zero_point: int = 0,
) -> str:
    zero = np.int8(zero_point) if signed else np.uint8(zero_point)
    parameters = [
        builder.constant(scale, "s"),
        builder.constant(zero, f"{layer}.z", shared=not signed),
    ]
    codes = builder.add("QuantizeLinear", [x, *parameters], f"{layer}.q")
    return builder.add("DequantizeLinear", [codes, *parameters], layer)


def then_quantized(
    write: Callable[[Found, str, Context], tuple[Codes, str]],
) -> Callable[[Found, str, Context], tuple[Codes, str]]:
    """Append the operator of ``write`` on values, and the same quantizer again after it.

    The operator outputs values k·s that it read, so quantizing them at s again changes none: in
    float32, k·s / s is k to within one rounding, and rounds to k. With this pair a compiler sees an
    operator that reads and gives codes, and the next convolution reads codes.
    """

    def written(found: Found, layer: str, context: Context) -> tuple[Codes, str]:
        codes, text = write(found, layer, context)
        signed = context.dialect.signed_only or codes.low < 0
        name = _quantized_and_back(
            context.builder,
            codes.name,
            codes.scale,
            f"{layer}.codes",
            signed=signed,
            zero_point=codes.zero_point,  # 128 for the image, 0 for all other quantizers
        )
        return replace(codes, name=name), text

    return written


def dequantized_weights(
    builder: GraphBuilder, weights: NDArray[np.int64], scale: NDArray[np.float32], layer: str
) -> str:
    """Append int8 weights, outputs first, and DequantizeLinear by output; returns its output."""
    stored = [
        builder.constant(weights.astype(np.int8), f"{layer}.w", shared=False),
        builder.constant(scale, f"{layer}.ws"),
        builder.constant(np.zeros(len(weights), np.int8), f"{layer}.wz", shared=False),
    ]
    return builder.add("DequantizeLinear", stored, f"{layer}.weights", axis=0)
