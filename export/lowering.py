"""QONNX → the all-integer ONNX that ONNX Runtime runs; and the float baseline for bit-width 32.

The integer graph takes ``images`` as uint8 N×3×H×W, the image's bytes, and gives ``logits`` as
float32 N×classes.  Every tensor between nodes is uint8 codes; only the logits are float.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from deploy.device.errors import InputError
from deploy.device.files import sha256_of_bytes, write_atomic
from export.graph_builder import MICROSOFT, GraphBuilder, model_bytes
from export.passes.average_pool import AveragePool
from export.passes.convolution import Affine, Convolution, affine_of
from export.passes.image_codes import ImageCodes
from export.passes.layout import Layout
from export.passes.linear import Linear
from export.passes.max_pool import MaxPool
from export.passes.qonnx_graph import QonnxGraph, attributes_of
from export.passes.requantize import Requantize
from export.passes.residual_add import ResidualAdd
from export.passes.rule import Context, LoweringError, Refusal, Rule
from export.reading import node_label
from export.storage import STORAGES, versions_for

IMAGES, LOGITS = "images", "logits"
"""Names of input and output in the files written here, whatever the QONNX file calls them."""

QUANT_RULES: tuple[Rule, ...] = (
    ImageCodes(),
    Requantize(),
    Convolution(),
    ResidualAdd(),
    AveragePool(),
)
"""Asked in this order at every activation quantizer."""

CODE_RULES: tuple[Rule, ...] = (MaxPool(), Layout())
"""Asked at the nodes that read codes and give codes without a quantizer between."""

KEEP_CODES = ("MaxPool", *Layout.operators)
"""The operators of those nodes."""

OUTPUT_RULES: tuple[Rule, ...] = (Linear(),)
"""Asked at the node that gives the logits."""


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """What the lowering wrote: the file, its SHA-256 and size, and a line per layer."""

    path: Path
    sha256: str
    size_bytes: int
    log: tuple[str, ...]


def lower(
    qonnx: Path, out: Path, *, target: str = "onnxruntime", storage: str = "low-bit"
) -> Lowered:
    """Lower a QONNX file to integers for ``target`` and write it atomically to ``out``.

    Raises:
        InputError: the file is damaged, or target or storage is unknown.
        LoweringError: a layer cannot be lowered; names it and each rule's reason.
    """
    if target != "onnxruntime":
        raise InputError(f"unknown target {target!r}; available: onnxruntime")
    if storage not in STORAGES:
        raise InputError(f"unknown storage {storage!r}; available: {', '.join(STORAGES)}")
    source = QonnxGraph(qonnx)
    context = Context(source=source, builder=GraphBuilder(), storage=storage)
    image = source.image
    context.builder.reserve(image)
    logits = _single_output(source)
    for node in source.graph.node:
        if node.output[0] == logits:
            _apply(node, OUTPUT_RULES, context)
        elif source.is_quant(node) and node.input[0] not in source.constants:
            _apply(node, QUANT_RULES, context)
        elif node.op_type in KEEP_CODES and node.input[0] in context.codes:
            _apply(node, CODE_RULES, context)
    return _finish(context.builder, source, out, tuple(context.log), [MICROSOFT])


def lower_float(qonnx: Path, out: Path) -> Lowered:
    """The float baseline: the same network without quantizers, BatchNorm folded into convolutions,
    uint8 images cast inside.

    Raises:
        InputError: the file is damaged or has quantizers.
    """
    source = QonnxGraph(qonnx)
    builder = GraphBuilder()
    image = source.image
    builder.reserve(image)
    names = {image: builder.add("Cast", [image], "pixels", to=TensorProto.FLOAT)}
    log: list[str] = []
    for node in source.graph.node:
        if source.is_quant(node):
            raise InputError(f"{qonnx}: {node_label(node)} quantizes; this is no float network")
        if node.op_type == "Conv" and _following_norm(node, source) is not None:
            continue
        output = node.output[0]
        if node.op_type == "BatchNormalization":
            conv = source.producer(node.input[0])
            if conv is not None and conv.op_type == "Conv":
                affine = affine_of(node, source)
                if isinstance(affine, Refusal):
                    raise LoweringError(f"{node_label(node)}: {affine.reason}")
                names[output] = _folded_conv(builder, source, conv, affine, names, output)
                log.append(f"{output}: BatchNormalization folded into the convolution")
                continue
        inputs = [
            names[name] if name in names else builder.constant(source.constants[name], name)
            for name in node.input
        ]
        names[output] = builder.add(
            node.op_type, inputs, output, domain=node.domain, **attributes_of(node)
        )
    return _finish(builder, source, out, tuple(log), [])


def _following_norm(conv: onnx.NodeProto, source: QonnxGraph) -> onnx.NodeProto | None:
    readers = [n for n in source.graph.node if conv.output[0] in n.input]
    only = readers[0] if len(readers) == 1 else None
    return only if only is not None and only.op_type == "BatchNormalization" else None


def _folded_conv(
    builder: GraphBuilder,
    source: QonnxGraph,
    conv: onnx.NodeProto,
    affine: Affine,
    names: dict[str, str],
    output: str,
) -> str:
    weight = source.constants[conv.input[1]].astype(np.float64)
    bias = affine.bias
    if len(conv.input) > 2 and conv.input[2]:
        bias = bias + affine.gain * source.constants[conv.input[2]].astype(np.float64)
    scaled = (weight * affine.gain.reshape(-1, 1, 1, 1)).astype(np.float32)
    inputs = [
        names[conv.input[0]],
        builder.constant(scaled, f"{output}.w"),
        builder.constant(bias.astype(np.float32), f"{output}.b"),
    ]
    return builder.add("Conv", inputs, output, **attributes_of(conv))


def _apply(node: onnx.NodeProto, rules: Sequence[Rule], context: Context) -> None:
    reasons: list[str] = []
    for rule in rules:
        answer = rule.match(node, context)
        if not isinstance(answer, Refusal):
            answer()
            return
        reasons.append(f"{rule.name}: {answer.reason}")
    raise LoweringError(
        f"{context.source.path}: the layer {node_label(node)} cannot be lowered to integers. "
        + "; ".join(reasons)
    )


def _single_output(source: QonnxGraph) -> str:
    if len(source.graph.output) != 1:
        raise InputError(f"{source.path}: expected one output, found {len(source.graph.output)}")
    return source.graph.output[0].name


def _rename(model: onnx.ModelProto, wanted: dict[str, str]) -> None:
    """Give tensors their wanted names; another tensor that had such a name gets a new one."""
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    names = dict(wanted)
    for name in sorted(set(wanted.values()) & taken - set(wanted)):
        names[name] = f"{name}_inside"
        while names[name] in taken:
            names[name] += "_"
    if all(old == new for old, new in names.items()):
        return
    for node in graph.node:
        for place in (node.input, node.output):
            place[:] = [names.get(name, name) for name in place]
    for item in (*graph.input, *graph.output, *graph.initializer):
        item.name = names.get(item.name, item.name)


def _finish(
    builder: GraphBuilder,
    source: QonnxGraph,
    out: Path,
    log: tuple[str, ...],
    domains: list[str],
) -> Lowered:
    image, logits = source.image, _single_output(source)
    _, channels, height, width = source.shapes[image]
    classes = source.shapes[logits][-1]
    inputs = [
        helper.make_tensor_value_info(image, TensorProto.UINT8, ["N", channels, height, width])
    ]
    outputs = [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["N", classes])]
    model = builder.model(
        name=source.graph.name,
        inputs=inputs,
        outputs=outputs,
        opset=13,
        ir_version=8,
        domains=domains,
    )
    opset, model.ir_version = versions_for(model)
    model.opset_import[0].version = opset
    _rename(model, {image: IMAGES, logits: LOGITS})
    data = model_bytes(model)
    write_atomic(out, data)
    return Lowered(path=out, sha256=sha256_of_bytes(data), size_bytes=len(data), log=log)
