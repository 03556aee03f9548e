"""What the Q/DQ targets promise of a finished file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto

from export.passes.guarantee import Guarantee
from export.reading import graph_inputs, initializers, node_label, type_name

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_UNSIGNED = (TensorProto.UINT8, TensorProto.UINT4, TensorProto.UINT2, TensorProto.UINT16)


class SymmetricInt8(Guarantee):
    """Every tensor of codes is int8 with zero point 0, the image included; nothing is unsigned.

    TensorRT takes a uint8 zero point for an int8 one, with a line in its log: codes above 127 would
    saturate, and the network would still run. A QuantizeLinear without a zero point gives uint8 by
    the standard's default, so one must be there.
    """

    name = "symmetric int8"

    def broken_by(self, model: onnx.ModelProto) -> str | None:
        """The first unsigned or shifted tensor; see :meth:`Guarantee.broken_by`."""
        for value in (*graph_inputs(model), *model.graph.output, *model.graph.value_info):
            kind = value.type.tensor_type.elem_type
            if kind in _UNSIGNED:
                return f"tensor {value.name!r} is {type_name(kind)}; this target knows int8 only"
        for tensor in model.graph.initializer:
            if tensor.data_type in _UNSIGNED:
                return (
                    f"stored tensor {tensor.name!r} is {type_name(tensor.data_type)}; this target "
                    "reads unsigned codes as int8"
                )
        stored = initializers(model)
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name in ("to", "output_dtype") and attribute.i in _UNSIGNED:
                    return f"node {node_label(node)} gives {type_name(attribute.i)}"
            if node.op_type in _QUANTIZERS:
                zero = stored.get(node.input[2]) if len(node.input) > 2 else None
                if zero is None or zero.dtype != np.int8 or bool(zero.astype(np.int64).any()):
                    found = "none" if zero is None else f"{zero.dtype} {zero.reshape(-1)[:1]}"
                    return (
                        f"node {node_label(node)} has the zero point {found}; it must be a stored "
                        "int8 of 0"
                    )
        return None


class QuantizedOperands(Guarantee):
    """Every convolution, product, sum and pool reads dequantized codes, weights included.

    What a compiler needs to run them on codes; a residual add with one float summand would be a
    float add. Clamps stand before a QuantizeLinear, never on codes.
    """

    name = "quantized operands"
    computing = ("Conv", "Gemm", "Add", "MaxPool", "GlobalAveragePool")

    def broken_by(self, model: onnx.ModelProto) -> str | None:
        """The first float operand or clamp of codes; see :meth:`Guarantee.broken_by`."""
        producers = {name: node for node in model.graph.node for name in node.output}
        for node in model.graph.node:
            for name in _operands(node):
                maker = producers.get(name)
                if maker is None or maker.op_type != "DequantizeLinear":
                    made = "stored or an input" if maker is None else f"made by {maker.op_type}"
                    return (
                        f"node {node_label(node)} reads {name!r}, which is {made}, not by "
                        "DequantizeLinear"
                    )
            if node.op_type in ("Relu", "Clip"):
                maker = producers.get(node.input[0])
                if maker is not None and maker.op_type == "QuantizeLinear":
                    return f"node {node_label(node)} clamps codes; clamps here are on values"
        return None


def _operands(node: onnx.NodeProto) -> Iterator[str]:
    if node.op_type in QuantizedOperands.computing:
        # A third input is the bias of Conv and Gemm, which stays float32.
        yield from node.input[:2]
