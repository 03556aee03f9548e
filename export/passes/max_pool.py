"""Max-pool of codes: the largest code is the code of the largest value.

value = s (code - z) with s > 0 is increasing, so the pool commutes with it: codes, scale, zero
point and range stay as they are, and uint8 MaxPool rounds nothing.  Padding is minus infinity in
float and the smallest byte on codes: neither wins against a code.  A window of padding alone cannot
be, for padding must be smaller than the kernel.
"""

from __future__ import annotations

from dataclasses import replace

import onnx

from export.passes.qonnx_graph import attributes_of
from export.passes.rule import Context, Emit, Place, Refusal, Rule


class MaxPool(Rule):
    """MaxPool(codes) → MaxPool on uint8."""

    name = "max-pool"
    place = Place.CODES

    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Match a two-dimensional MaxPool of codes; see :meth:`Rule.match`."""
        if node.op_type != "MaxPool":
            return Refusal(f"{node.op_type} is no MaxPool")
        attributes = attributes_of(node)
        kernel = list(attributes.get("kernel_shape", []))
        strides = list(attributes.get("strides", [1] * len(kernel)))
        pads = list(attributes.get("pads", [0] * 2 * len(kernel)))
        if len(kernel) != 2:
            return Refusal(f"its kernel {kernel} has not two dimensions")
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            return Refusal("auto_pad is not supported; write the padding out")
        if attributes.get("ceil_mode", 0) or set(attributes.get("dilations", [1])) != {1}:
            return Refusal("ceil_mode and dilations are not supported")
        if len([name for name in node.output if name]) != 1:
            return Refusal("indices of the largest values are not supported")
        if any(pad >= size for pad, size in zip(pads, kernel * 2, strict=True)):
            return Refusal(f"its padding {pads} is not smaller than its kernel {kernel}")
        layer, codes = node.output[0], context.codes[node.input[0]]

        def emit() -> None:
            name = context.builder.add(
                "MaxPool", [codes.name], layer, kernel_shape=kernel, strides=strides, pads=pads
            )
            context.codes[layer] = replace(codes, name=name)
            context.note(self, layer, f"MaxPool of codes {kernel[0]}×{kernel[1]}")

        return emit
