"""Codes in a ``.tflite`` file: int8, the channels last.

A code k of low … high is stored as k + z in int8, with z = 127 - high, so that int8 itself
saturates at the largest code: unsigned 8-bit codes have z = -128, b-bit ones z = 128 - 2^b.  At the
lower end, the fused ReLU keeps codes at 0 or above.  Only signed codes narrower than int8 need a
separate operator (MAXIMUM).

A tensor of four dimensions is stored N×H×W×C; one of another rank as in the QONNX file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from export.litert_builder import LiteRtBuilder
from export.passes.qonnx_graph import Quantizer
from export.passes.rule import Clamp, Codes, Context, LoweringError

LOW, HIGH = -128, 127


def out_codes(quantizer: Quantizer, clamp: Clamp) -> Codes:
    """The codes, not named yet, of the quantizer of a layer after a clamp."""
    low, high = clamp.codes(*quantizer.code_range(), quantizer.step)
    if high < 0:
        raise LoweringError(
            f"its codes {low}…{high} are all below 0, so they cannot end at the largest int8 code"
        )
    zero = HIGH - high
    return Codes(name="", scale=quantizer.step, zero_point=zero, low=low + zero, high=HIGH)


def builder_of(context: Context) -> LiteRtBuilder:
    """The file that is written; a target of this family always has one."""
    assert context.litert is not None
    return context.litert


def tensor(context: Context, codes: Codes, shape: Sequence[int], name: str) -> str:
    """Add a tensor of these codes, N×H×W×C, and give its name."""
    return builder_of(context).tensor(
        name, shape, "int8", scales=[codes.scale], zero_point=codes.zero_point
    )


def int32(context: Context, values: Any, hint: str) -> str:
    """Add a constant, and give its name."""
    return builder_of(context).constant(np.asarray(values, np.int32), hint)


def written(
    context: Context,
    operator: str,
    inputs: Sequence[str],
    out: Codes,
    shape: Sequence[int],
    layer: str,
    *,
    fuses: bool = True,
    **options: Any,
) -> Codes:
    """Write the operator, and enforce the lower bound of the codes ``out``: by int8 itself, a fused
    ReLU if they begin at the value 0 and the operator ``fuses`` it, or a MAXIMUM after it."""
    builder = builder_of(context)
    held = out.low == LOW
    if fuses:
        relu = not held and out.low == out.zero_point
        options["fusedActivationFunction"] = builder.enum(
            "ActivationFunctionType", "RELU" if relu else "NONE"
        )
        held |= relu
    name = tensor(context, out, shape, layer if held else f"{layer}.wide")
    builder.add(operator, inputs, name, **options)
    if not held:
        least = builder.constant(
            np.array([out.low], np.int8),
            f"{layer}.least",
            scales=[out.scale],
            zero_point=out.zero_point,
        )
        name = builder.add("MAXIMUM", [name, least], tensor(context, out, shape, layer))
    return replace(out, name=name)


def pad(context: Context, x: Codes, widths: Sequence[Sequence[int]], code: int, layer: str) -> str:
    """Write PAD, or PADV2 with ``code`` in the border, of ``widths`` (before, after) an axis."""
    builder = builder_of(context)
    shape = [
        size + sum(width) for size, width in zip(builder.shape_of(x.name), widths, strict=True)
    ]
    inputs = [x.name, int32(context, widths, "pads")]
    out = tensor(context, x, shape, layer)
    if code == x.zero_point:
        return builder.add("PAD", inputs, out)
    border = builder.constant(
        np.array([code], np.int8), "border", scales=[x.scale], zero_point=x.zero_point
    )
    return builder.add("PADV2", [*inputs, border], out)


def pad_spatial(context: Context, x: Codes, pads: Sequence[int], code: int, layer: str) -> str:
    """The same around height and width, by ONNX's ``pads``: top, left, bottom, right."""
    top, left, bottom, right = pads
    return pad(context, x, [[0, 0], [top, bottom], [left, right], [0, 0]], code, layer)


def spatial(context: Context, padding: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a window that moves over height and width."""
    strides = list(attributes.get("strides", (1, 1)))
    return {
        "padding": builder_of(context).enum("Padding", padding),
        "strideH": strides[0],
        "strideW": strides[1],
    }


def range_in_words(codes: Codes) -> str:
    """For the plan: the first and last code, and the zero point."""
    return f"codes {codes.low}…{codes.high} (zero point {codes.zero_point})"
