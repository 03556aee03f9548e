"""Max-pool of codes: the largest code is the code of the largest value.

value = s (code - z) with s > 0 is increasing, so the pool commutes with it: codes, scale, zero
point and range are unchanged, and uint8 MaxPool does not round.  Padding is minus infinity in float
and the smallest byte on codes, so it never exceeds a code.  A window of padding alone cannot occur,
because padding must be smaller than the kernel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx

from export.graph import attributes_of
from export.passes.rule import Codes, Context, Refusal

MaxPool = tuple[Codes, dict[str, Any]]
"""The codes, and kernel, strides and padding."""


def max_pool(node: onnx.NodeProto, context: Context) -> MaxPool:
    """Match a two-dimensional MaxPool of codes."""
    if node.op_type != "MaxPool":
        raise Refusal(f"{node.op_type} is not a MaxPool", other=True)
    attributes = attributes_of(node)
    kernel = list(attributes.get("kernel_shape", []))
    strides = list(attributes.get("strides", [1] * len(kernel)))
    pads = list(attributes.get("pads", [0] * 2 * len(kernel)))
    if len(kernel) != 2:
        raise Refusal(f"its kernel {kernel} has not two dimensions")
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise Refusal("auto_pad is not supported; write the padding out")
    if attributes.get("ceil_mode", 0) or set(attributes.get("dilations", [1])) != {1}:
        raise Refusal("ceil_mode and dilations are not supported")
    if len([name for name in node.output if name]) != 1:
        raise Refusal("indices of the largest values are not supported")
    if any(pad >= size for pad, size in zip(pads, kernel * 2, strict=True)):
        raise Refusal(f"its padding {pads} is not smaller than its kernel {kernel}")
    return context.codes[node.input[0]], {"kernel_shape": kernel, "strides": strides, "pads": pads}


def write_max_pool(found: MaxPool, layer: str, context: Context) -> tuple[Codes, str]:
    """Write MaxPool on uint8."""
    codes, settings = found
    name = context.builder.add("MaxPool", [codes.name], layer, **settings)
    height, width = settings["kernel_shape"]
    return replace(codes, name=name), f"MaxPool of codes {height}×{width}"
