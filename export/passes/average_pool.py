"""Global average pooling of codes.

code_y = round(sum(x - z_x) * s_x / (s_y * n)) + z_y over n positions, QLinearGlobalAveragePool's
own formula.  With s_y = s_x (n + 1) / n for an even n this is sum / (n + 1) with n + 1 odd: no sum
is ever halfway between two codes.  Other scales work too; the reference then depends on the exact
order of float32 operations, which is known for ONNX Runtime (export.reference).

The pool reads its input with the channels last, as ONNX Runtime's convolutions leave it: the
transposition in front is cancelled by the engine's own.  One behind it, of a single position, puts
the channels back, where anything but a Flatten reads the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from export.graph_builder import MICROSOFT
from export.passes.qonnx_graph import Quantizer, attributes_of
from export.passes.rule import (
    Codes,
    Context,
    Emit,
    Refusal,
    Rule,
    activation_quantizer,
    byte,
    clip_codes,
    code_bounds,
    scalar,
)


@dataclass(frozen=True, kw_only=True)
class AveragePoolPattern:
    """Quant(GlobalAveragePool or ReduceMean(codes)), taken apart.

    ``flat``: the pool drops height and width; otherwise they stay as 1.
    """

    x: Codes
    quantizer: Quantizer
    flat: bool


def average_pool_pattern(node: onnx.NodeProto, context: Context) -> AveragePoolPattern | Refusal:
    """Take apart the pool before the quantizer ``node``, or say what it is not."""
    pool = context.source.producer(node.input[0])
    if pool is None or pool.op_type not in ("GlobalAveragePool", "ReduceMean"):
        return Refusal("no GlobalAveragePool or ReduceMean stands before it")
    flat = False
    if pool.op_type == "ReduceMean":
        attributes = attributes_of(pool)
        stored = context.source.constants.get(pool.input[1]) if len(pool.input) > 1 else None
        axes = attributes.get("axes", []) if stored is None else stored.tolist()
        if {axis % 4 for axis in axes} != {2, 3}:
            return Refusal(f"its ReduceMean is over the axes {axes}, not over height and width")
        flat = not attributes.get("keepdims", 1)
    x = context.codes.get(pool.input[0])
    if x is None:
        return Refusal(f"the pool's input {pool.input[0]!r} has no integer codes")
    quantizer = activation_quantizer(node, context)
    if isinstance(quantizer, Refusal):
        return quantizer
    return AveragePoolPattern(x=x, quantizer=quantizer, flat=flat)


class AveragePool(Rule):
    """Quant(GlobalAveragePool or ReduceMean(codes)) → QLinearGlobalAveragePool (Clip)."""

    name = "global average pool"

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match the pool of codes before a quantizer; see :meth:`Rule.match`."""
        pattern = average_pool_pattern(node, context)
        if isinstance(pattern, Refusal):
            return pattern
        quantizer, source_codes, flat = pattern.quantizer, pattern.x, pattern.flat
        layer = node.output[0]

        def emit() -> None:
            builder = context.builder
            zero_point, low, high = code_bounds(quantizer)
            scale = np.float32(quantizer.scale.item())
            clipped = low > 0 or high < 255
            last = builder.add("Transpose", [source_codes.name], f"{layer}.last", perm=[0, 2, 3, 1])
            name = builder.add(
                "QLinearGlobalAveragePool",
                [
                    last,
                    scalar(builder, source_codes.scale),
                    byte(builder, source_codes.zero_point),
                    scalar(builder, scale),
                    byte(builder, zero_point),
                ],
                f"{layer}.wide" if clipped else layer,
                domain=MICROSOFT,
                channels_last=1,
            )
            if flat:
                name = builder.add("Flatten", [name], f"{layer}.flat", axis=1)
            elif any(reader.op_type != "Flatten" for reader in context.source.readers(layer)):
                name = builder.add("Transpose", [name], f"{layer}.first", perm=[0, 3, 1, 2])
            codes = Codes(name=name, scale=scale, zero_point=zero_point, low=low, high=high)
            context.codes[layer] = clip_codes(context, name, codes, layer)
            context.note(self, layer, f"QLinearGlobalAveragePool, codes {low}…{high}")

        return emit
