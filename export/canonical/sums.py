"""A sum of codes before a normalization, and one of three tensors, is a convolution with ones.

A quantizer of a sum of two tensors of codes has a rule of its own.  If BatchNormalization is
between them (pre-activation networks) or there is a third summand, and all share one scale s and
zero point z:

    a + b + c = s (x_a - z) + s (x_b - z) + s (x_c - z) = Conv(Concat(a, b, c), [I I I])

so the rules of convolutions apply, with one rounding.  It costs as much as a 1×1 convolution of all
summands' channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from export.canonical.before_moves import share_one_scale
from export.canonical.draft import Draft
from export.graph import Wiring
from export.graph_builder import QONNX

MOST_SUMMANDS = 8


def as_convolutions(draft: Draft) -> None:
    """Write the sums that are normalized, or have three summands or more, as convolutions."""
    for node in list(draft.nodes):
        if node.op_type != "Add" or node not in draft.nodes:
            continue
        wiring = draft.wiring
        parts = _summands(node, wiring, draft)
        others = [
            one
            for one in wiring.readers(node.output[0])
            if len(parts) > 2 or _is_affine(one, draft)
        ]
        # A sum within a larger one is written as part of it.
        others = [
            one for one in others if one.op_type != "Add" or not _summands(one, wiring, draft)
        ]
        shape = draft.shapes.get(node.output[0], ())
        if parts and others and len(shape) == 4 and shape[1] and node.output[0] != draft.output:
            _write(node, parts, others, draft)
    draft.live()


def _summands(node: onnx.NodeProto, wiring: Wiring[onnx.NodeProto], draft: Draft) -> list[str]:
    """All summands if all are codes of one scale; else an empty list."""
    shape = draft.shapes.get(node.output[0], ())
    parts, waiting = [], list(node.input)
    while waiting:
        name = waiting.pop(0)
        maker = wiring.producer(name)
        if maker is not None and maker.op_type == "Add":
            waiting = [*maker.input, *waiting]
        else:
            parts.append(name)
        if len(parts) + len(waiting) > MOST_SUMMANDS:
            return []
    if any(name in draft.constants or draft.shapes.get(name) != shape for name in parts):
        return []
    return parts if share_one_scale(parts, wiring, draft) else []


def _is_affine(node: onnx.NodeProto, draft: Draft) -> bool:
    """Whether a reader of a sum multiplies it and adds to it by stored numbers."""
    if node.op_type not in ("Add", "BatchNormalization", "Div", "Mul", "Sub"):
        return False
    return sum(name not in draft.constants for name in node.input) == 1


def _write(
    node: onnx.NodeProto, parts: list[str], readers: list[onnx.NodeProto], draft: Draft
) -> None:
    batch, channels, *sides = draft.shapes[node.output[0]]
    label = node.name or node.output[0]
    ones = np.tile(np.eye(channels, dtype=np.float32), (1, len(parts)))[:, :, None, None]
    joined, weights, total = (
        draft.name(f"{node.output[0]}.{what}") for what in ("parts", "ones", "conv")
    )
    draft.shapes[joined] = (batch, channels * len(parts), *sides)
    draft.shapes[weights], draft.shapes[total] = ones.shape, draft.shapes[node.output[0]]

    def made(operator: str, inputs: list[str], output: str, domain: str = "", **more: Any) -> Any:
        name = f"{label}.{output}" if operator == "Quant" else label
        return helper.make_node(operator, inputs, [output], name=name, domain=domain, **more)

    numbers = [
        draft.constant(np.float32(value), f"{weights}.{what}")
        for what, value in (("scale", 1.0), ("zero", 0.0), ("bits", 2.0))
    ]
    stored = draft.constant(ones, f"{weights}.float")
    quantized = made(
        "Quant", [stored, *numbers], weights, QONNX, signed=1, narrow=1, rounding_mode="ROUND"
    )
    new = [
        made("Concat", parts, joined, axis=1),
        quantized,
        made("Conv", [joined, weights], total, kernel_shape=[1, 1]),
    ]
    draft.replace(node, node, *new)
    for reader in readers:
        reader.input[:] = [total if name == node.output[0] else name for name in reader.input]
