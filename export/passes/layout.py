"""Flatten, Reshape and Transpose of codes: bytes move, values stay.

The QONNX graph has a batch of 1, the integer graph any: a shape is written with 0 ("as it is") for
the batch and the other sides as the QONNX file's own shapes say.  What would mix images is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from export.passes.qonnx_graph import attributes_of
from export.passes.rule import Context, Emit, Place, Refusal, Rule


class Layout(Rule):
    """Flatten, Reshape or Transpose of codes → the same on uint8."""

    name = "layout"
    place = Place.CODES
    operators = ("Flatten", "Reshape", "Transpose", "Identity")

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match a node that moves codes without changing them; see :meth:`Rule.match`."""
        if node.op_type not in self.operators:
            return Refusal(f"{node.op_type} is none of {', '.join(self.operators)}")
        attributes = attributes_of(node)
        layer, codes = node.output[0], context.codes[node.input[0]]
        builder = context.builder
        inputs, settings = [codes.name], dict[str, Any]()
        if node.op_type == "Flatten":
            if attributes.get("axis", 1) != 1:
                return Refusal(f"Flatten at axis {attributes['axis']} mixes images; expected 1")
            settings = {"axis": 1}
        elif node.op_type == "Transpose":
            permutation = list(attributes.get("perm", []))
            if not permutation or permutation[0] != 0:
                return Refusal(f"the permutation {permutation or 'of all axes'} moves the batch")
            settings = {"perm": permutation}
        elif node.op_type == "Reshape":
            before = context.source.shapes.get(node.input[0], ())
            after = context.source.shapes.get(layer, ())
            if not after or not before or before[0] != after[0] or 0 in after[1:]:
                return Refusal(
                    f"the file does not say that it keeps the batch: {list(before)} → {list(after)}"
                )
            inputs.append(builder.constant(np.array([0, *after[1:]], np.int64), f"{layer}.shape"))

        def emit() -> None:
            if node.op_type == "Identity":
                context.codes[layer] = codes
                return
            name = builder.add(node.op_type, inputs, layer, **settings)
            context.codes[layer] = replace(codes, name=name)
            context.note(self, layer, f"{node.op_type} of codes")

        return emit
