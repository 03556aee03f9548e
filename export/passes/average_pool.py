"""Global average pooling of codes.

code_y = round(sum(x - z_x) * s_x / (s_y * n)) + z_y over n positions is QLinearGlobalAveragePool's
formula.  With s_y = s_x (n + 1) / n for an even n this is sum / (n + 1) with n + 1 odd, so no sum
is halfway between two codes.  The same holds in the signed Q/DQ dialect, which doubles both steps.
Other scales work too; the reference then depends on the exact order of float32 operations, which is
known for ONNX Runtime (export.reference).

The integer pool reads its input with the channels last, as ONNX Runtime's convolutions output it,
so the engine's own transposition cancels the one before the pool.  If anything but a Flatten reads
the result, a transposition of its single position restores the channel order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx

from export.graph import attributes_of
from export.graph_builder import MICROSOFT
from export.passes.qonnx_graph import Quantizer
from export.passes.quantizers import quantized
from export.passes.rule import (
    Clamp,
    Codes,
    Context,
    Refusal,
    Written,
    activation_quantizer,
    byte,
    byte_codes,
    clipped,
    named,
    scalar,
)


@dataclass(frozen=True, kw_only=True)
class AveragePool:
    """The parts of Quant(GlobalAveragePool or ReduceMean(codes)).

    ``flat``: the pool drops height and width; otherwise they keep length 1.
    """

    x: Codes
    quantizer: Quantizer
    flat: bool


def average_pool(node: onnx.NodeProto, context: Context) -> AveragePool:
    """Match the pool before the quantizer ``node``."""
    pool = context.source.producer(node.input[0])
    if pool is None or pool.op_type not in ("GlobalAveragePool", "ReduceMean"):
        raise Refusal(
            f"{named(pool)} precedes it, not a GlobalAveragePool or ReduceMean", other=True
        )
    flat = False
    if pool.op_type == "ReduceMean":
        attributes = attributes_of(pool)
        stored = context.source.constants.get(pool.input[1]) if len(pool.input) > 1 else None
        axes = attributes.get("axes", []) if stored is None else stored.tolist()
        if {axis % 4 for axis in axes} != {2, 3}:
            raise Refusal(
                f"its ReduceMean averages over the axes {axes}, not over height and width"
            )
        flat = not attributes.get("keepdims", 1)
    x = context.codes_of(pool.input[0], "the pool's input")
    return AveragePool(x=x, quantizer=activation_quantizer(node, context), flat=flat)


def write_integer_pool(found: AveragePool, layer: str, context: Context) -> Written:
    """Write QLinearGlobalAveragePool, and Clip if needed."""
    builder, x = context.builder, found.x
    out = byte_codes(found.quantizer, Clamp(), layer)
    inputs = [
        builder.add("Transpose", [x.name], f"{layer}.last", perm=[0, 2, 3, 1]),
        scalar(builder, x.scale),
        byte(builder, x.zero_point),
        scalar(builder, out.scale),
        byte(builder, out.zero_point),
    ]
    name = builder.add(
        "QLinearGlobalAveragePool", inputs, out.name, domain=MICROSOFT, channels_last=1
    )
    if found.flat:
        name = builder.add("Flatten", [name], f"{layer}.flat", axis=1)
    elif any(reader.op_type != "Flatten" for reader in context.source.readers(layer)):
        name = builder.add("Transpose", [name], f"{layer}.first", perm=[0, 3, 1, 2])
    codes = clipped(context, replace(out, name=name), layer)
    return codes, f"QLinearGlobalAveragePool, codes {codes.low}…{codes.high}"


def write_pool(found: AveragePool, layer: str, context: Context) -> Written:
    """Write GlobalAveragePool, Q, DQ."""
    pooled = context.builder.add("GlobalAveragePool", [found.x.name], f"{layer}.mean")
    if found.flat:
        pooled = context.builder.add("Flatten", [pooled], f"{layer}.flat", axis=1)
    codes, text = quantized(pooled, found.quantizer, Clamp(), layer, context)
    return codes, f"GlobalAveragePool, {text}"
