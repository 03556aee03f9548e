"""A function of two tensors of codes as a table: a sum or a product whose scales differ.

y = f(s_a (a - z_a), s_b (b - z_b)) for all 256 · 256 pairs is a table of 65,536 bytes, computed in
float32 and in the order of the source, so that ties round the same way.  The engine looks it up at
256 a + b, in int32, and rounds nothing, so the result is the network's own.  A sum at one scale and
a gate have faster operators (:mod:`export.passes.residual_add`, :mod:`export.passes.gate`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.passes.qonnx_graph import Quantizer
from export.passes.rule import (
    Clamp,
    Codes,
    Context,
    Refusal,
    Written,
    activation_quantizer,
    byte_codes,
)
from export.passes.table import function_before
from training.quantize.pointwise import Expression, evaluate_pair


@dataclass(frozen=True, kw_only=True)
class PairTable:
    """The parts of Quant(f(codes, codes))."""

    a: Codes
    b: Codes
    expression: Expression
    quantizer: Quantizer


def pair_table(node: onnx.NodeProto, context: Context) -> PairTable:
    """Match the function of two tensors before the quantizer ``node``."""
    expression, roots = function_before(node.input[0], context)
    if len(roots) != 2:
        raise Refusal("it is a function of one tensor of codes, not of two", other=True)
    a, b = (context.codes[name] for name in roots)
    return PairTable(a=a, b=b, expression=expression, quantizer=activation_quantizer(node, context))


def entries(found: PairTable, out: Codes) -> NDArray[np.uint8]:
    """uint8 (65536,): the output's code for 256 a + b."""
    codes = np.arange(256, dtype=np.float32)
    a, b = ((codes - np.float32(one.zero_point)) * one.scale for one in (found.a, found.b))
    with np.errstate(all="ignore"):
        values = evaluate_pair(found.expression, a[:, None], b[None, :])
        rounded = np.rint(values.astype(np.float32) / out.scale) + out.zero_point
    return np.clip(np.nan_to_num(rounded), out.low, out.high).astype(np.uint8).reshape(-1)


def write_pair_lookup(found: PairTable, layer: str, context: Context) -> Written:
    """Write Cast, Mul, Add of int32; Gather."""
    builder, out = context.builder, byte_codes(found.quantizer, Clamp(), layer)
    first, second = (
        builder.add("Cast", [one.name], f"{layer}.{what}", to=TensorProto.INT32)
        for what, one in (("first", found.a), ("second", found.b))
    )
    rows = builder.add("Mul", [first, builder.constant(np.int32(256), "rows")], f"{layer}.row")
    index = builder.add("Add", [rows, second], f"{layer}.pair")
    stored = builder.constant(entries(found, out), f"{layer}.table")
    name = builder.add("Gather", [stored, index], layer, axis=0)
    return replace(out, name=name), f"table of pairs, codes {out.low}…{out.high}"
