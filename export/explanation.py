"""The contents of a QONNX file, layer by layer: the lines of ``--explain`` for that target.

The passes of the other targets write their own lines (:meth:`export.passes.rule.Context.note`).
"""

from __future__ import annotations

from pathlib import Path

import onnx

from deploy.core.text import shape_in_words
from export.passes.qonnx_graph import QonnxGraph, Quantizer

_LAYERS = {
    "Add": "residual add",
    "BatchNormalization": "batch norm",
    "Conv": "convolution",
    "Gemm": "linear",
    "GlobalAveragePool": "global average pool",
    "MaxPool": "max-pool",
}


def explain_qonnx(path: Path) -> tuple[str, ...]:
    """A line for each layer and each quantizer of activations, in the file's order.

    Raises:
        InputError: the file is damaged, or has a quantizer of another kind than this project's.
    """
    source = QonnxGraph(path)
    lines = []
    for node in source.nodes:
        name = node.output[0]
        if source.is_quant(node):
            if node.input[0] not in source.constants:
                lines.append(f"{name}: Quant, {_described(source.quantizer(node))} [quantizer]")
        elif node.op_type in _LAYERS:
            lines.append(f"{name}: {_layer(node, source)} [{_LAYERS[node.op_type]}]")
    return tuple(lines)


def _layer(node: onnx.NodeProto, source: QonnxGraph) -> str:
    if node.op_type == "BatchNormalization":
        folded = not source.constants[node.input[3]].any()
        return "gain and bias on the accumulator's grid" if folded else "trained statistics"
    if node.op_type not in ("Conv", "Gemm"):
        return node.op_type
    made = source.producer(node.input[1])
    if made is None:
        return f"{node.op_type}, float weights"
    shape = shape_in_words(source.constants[made.input[0]].shape)
    return f"{node.op_type}, weights {shape}, {_described(source.quantizer(made))}"


def _described(quantizer: Quantizer) -> str:
    low, high = quantizer.code_range()
    scales = (
        f"scale {quantizer.scale.item():.6g}"
        if quantizer.scale.size == 1
        else f"{quantizer.scale.size} scales"
    )
    return f"{quantizer.bits} bits, codes {low}…{high}, {scales}"
