"""QONNX → the graph of one target (:mod:`export.targets`); and the float baseline for bit-width 32.

A lowered graph takes ``images`` as N×3×H×W bytes, uint8 or (TensorRT) int8 of byte - 128, and gives
``logits`` as float32 N×classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes, write_atomic
from deploy.core.model_contents import require_contents
from export.graph import attributes_of, fresh_name, node_label
from export.graph_builder import GraphBuilder, model_bytes
from export.litert_builder import LiteRtBuilder
from export.origin import origin_of
from export.passes.convolution import Affine, affine_of
from export.passes.guarantee import require_guarantees
from export.passes.layout import OPERATORS
from export.passes.moves import OPERATORS as MOVES
from export.passes.qonnx_graph import QonnxGraph
from export.passes.rule import Context, LoweringError, Place, Refusal, require_codes
from export.reading import refuses_malformed
from export.storage import versions_for
from export.targets import LITERT, Target, target_named

IMAGES, LOGITS = "images", "logits"
"""Names of input and output in the files written here, whatever the QONNX file calls them."""

KEEP_CODES = ("MaxPool", *OPERATORS, *MOVES)
"""Operators that read codes and give codes without a quantizer between."""


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """What the lowering wrote: the file, its SHA-256 and size, a line per layer, the names of the
    guarantees that were checked on the finished graph, how its weights are stored and what it is
    tuned for (None: float32, nothing)."""

    path: Path
    sha256: str
    size_bytes: int
    log: tuple[str, ...]
    guarantees: tuple[str, ...] = ()
    storage: str | None = None
    tune: str | None = None


@refuses_malformed
def lower(
    qonnx: Path,
    out: Path,
    *,
    target: str = "onnxruntime",
    storage: str | None = None,
    tune: str | None = None,
) -> Lowered:
    """Lower a QONNX file for ``target`` and write it atomically to ``out``.

    Args:
        qonnx: the QONNX file.
        out: the file to write.
        target: one of :data:`export.targets.TARGETS`.
        storage: of the weights; None: the target's own default.
        tune: what its kernels are chosen for (:data:`export.passes.kernels.TUNES`); None: likewise.

    Raises:
        InputError: the file is damaged, or target, storage or tune is unknown.
        LoweringError: a layer cannot be lowered; names it and each rule's reason.
        ContractError: a pass did not keep its contract, or the file not its target's guarantees.
    """
    chosen = target_named(target)
    storage = _known("storage", storage, chosen.storages, target)
    tune = _known("tune", tune, chosen.tunes, target)
    source = QonnxGraph(qonnx)
    context = Context(
        source=source,
        builder=GraphBuilder(),
        storage=storage,
        tune=tune,
        dialect=chosen.dialect,
        code_range=chosen.code_range,
        litert=LiteRtBuilder() if chosen is LITERT else None,
    )
    context.builder.reserve(source.image)
    log = [line for node in source.nodes if (line := _lower_node(node, chosen, context))]
    if context.litert is not None:
        made = _finish_litert(context.litert, source, out, tuple(log))
    else:
        made = _finish(context.builder, source, out, tuple(log), chosen)
    return replace(made, storage=storage, tune=tune)


@refuses_malformed
def lower_float(qonnx: Path, out: Path, *, target: str = "onnxruntime") -> Lowered:
    """The float baseline: the same network without quantizers, BatchNorm folded into convolutions,
    the target's images cast inside.

    Raises:
        InputError: the file is damaged or has quantizers, or the target is unknown.
    """
    chosen = target_named(target)
    if chosen is LITERT:
        raise InputError(
            "the target 'litert' has no float baseline; name the integer bit-widths with --bits"
        )
    source = QonnxGraph(qonnx)
    builder = GraphBuilder()
    image = source.image
    builder.reserve(image)
    pixels = builder.add("Cast", [image], "pixels", to=TensorProto.FLOAT)
    if chosen.image_type == TensorProto.INT8:
        centre = builder.constant(np.float32(128.0), "centre")
        pixels = builder.add("Add", [pixels, centre], "bytes")
    names = {image: pixels, "": ""}
    log: list[str] = []
    for node in source.nodes:
        if source.is_quant(node):
            raise InputError(f"{qonnx}: {node_label(node)} quantizes; this is no float network")
        if node.op_type == "Conv" and _following_norm(node, source) is not None:
            continue
        output = node.output[0]
        if node.op_type == "BatchNormalization":
            conv = source.producer(node.input[0])
            if conv is not None and conv.op_type == "Conv":
                try:
                    affine = affine_of(node, source)
                except Refusal as refusal:
                    raise LoweringError(f"{node_label(node)}: {refusal}") from refusal
                names[output] = _folded_conv(builder, source, conv, affine, names, output)
                log.append(f"{output}: BatchNormalization folded into the convolution")
                continue
        inputs = [
            names[name]
            if name in names or not name
            else builder.constant(source.constants[name], name)
            for name in node.input
        ]
        names[output] = builder.add(
            node.op_type, inputs, output, domain=node.domain, **attributes_of(node)
        )
    return _finish(builder, source, out, tuple(log), chosen, integer=False)


def _known(what: str, value: str | None, available: tuple[str, ...], target: str) -> str:
    if value is None:
        return available[0]
    if value not in available:
        raise InputError(
            f"unknown {what} {value!r} for the target {target}; available: {', '.join(available)}"
        )
    return value


def _following_norm(conv: onnx.NodeProto, source: QonnxGraph) -> onnx.NodeProto | None:
    readers = source.readers(conv.output[0])
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


def _place(node: onnx.NodeProto, context: Context) -> Place | None:
    """Which rules are asked at a node; None at what a rule takes together with a later node."""
    source = context.source
    if node.output[0] == source.logits:
        return Place.LOGITS
    if source.is_quant(node) and node.input[0] not in source.constants:
        return Place.QUANTIZER
    if node.op_type in KEEP_CODES and node.input[0] in context.codes:
        return Place.CODES
    return None


def _lower_node(node: onnx.NodeProto, target: Target, context: Context) -> str:
    """Let the first rule that matches write the node's layer; a line for the log, or nothing."""
    place, layer = _place(node, context), node.output[0]
    if place is None:
        return ""
    reasons: list[str] = []
    for rule in target.rules:
        if rule.place is not place:
            continue
        try:
            found = rule.match(node, context)
        except Refusal as refusal:
            reasons.append(f"{rule.name}: {refusal}")
            continue
        codes, text = rule.write(found, layer, context)
        if place is not Place.LOGITS:
            context.codes[layer] = require_codes(rule.name, layer, codes, target.code_range)
        return f"{layer}: {text} [{rule.name}]" if text else ""
    raise LoweringError(
        f"{context.source.path}: the layer {node_label(node)} cannot be lowered to integers. "
        + "; ".join(reasons)
    )


def _rename(model: onnx.ModelProto, wanted: dict[str, str]) -> None:
    """Give tensors their wanted names; another tensor that had such a name gets a new one."""
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    names = dict(wanted)
    for name in sorted(set(wanted.values()) & taken - set(wanted)):
        names[name] = fresh_name(f"{name}_inside", taken)
    if all(old == new for old, new in names.items()):
        return
    for node in graph.node:
        for place in (node.input, node.output):
            place[:] = [names.get(name, name) for name in place]
    for item in (*graph.input, *graph.output, *graph.initializer):
        item.name = names.get(item.name, item.name)


def _finish_litert(
    builder: LiteRtBuilder, source: QonnxGraph, out: Path, log: tuple[str, ...]
) -> Lowered:
    described = source.model.doc_string if origin_of(source.model) is not None else ""
    data = builder.bytes(source.model.graph.name, IMAGES, LOGITS, described)
    require_contents(data, LITERT.name, f"the .tflite file of {source.path}")
    write_atomic(out, data)
    return Lowered(
        path=out,
        sha256=sha256_of_bytes(data),
        size_bytes=len(data),
        log=log,
        guarantees=("only operators of the target", "integers throughout"),
    )


def _finish(
    builder: GraphBuilder,
    source: QonnxGraph,
    out: Path,
    log: tuple[str, ...],
    target: Target,
    *,
    integer: bool = True,
) -> Lowered:
    image, logits = source.image, source.logits
    _, channels, height, width = source.shapes[image]
    classes = source.shapes[logits][-1]
    inputs = [
        helper.make_tensor_value_info(image, target.image_type, ["N", channels, height, width])
    ]
    outputs = [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["N", classes])]
    model = builder.model(
        name=source.model.graph.name,
        inputs=inputs,
        outputs=outputs,
        opset=13,
        ir_version=8,
        domains=target.domains if integer else (),
    )
    model.opset_import[0].version, model.ir_version = versions_for(model)
    _rename(model, {image: IMAGES, logits: LOGITS})
    if origin_of(source.model) is not None:
        model.doc_string = source.model.doc_string
    guarantees = require_guarantees(
        target.guarantees if integer else (), model, f"the {target.name} graph of {source.path}"
    )
    data = model_bytes(model)
    write_atomic(out, data)
    return Lowered(
        path=out,
        sha256=sha256_of_bytes(data),
        size_bytes=len(data),
        log=log,
        guarantees=guarantees,
    )
