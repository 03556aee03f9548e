"""Lower QONNX to the graph of one target (:mod:`export.targets`), or to the float baseline.

A lowered graph takes ``images`` as N×3×H×W bytes, uint8 or (TensorRT) int8 of byte - 128, and gives
``logits`` as float32 N×classes.  The float baseline has the bit-width 32.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from deploy.core.errors import EngineUnavailable, InputError
from deploy.core.files import sha256_of_bytes, write_atomic
from deploy.core.model_contents import require_contents
from deploy.core.model_engine import run_all
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.litert_engine import LiteRtEngine
from export.budget import EQUAL, Budget, departure
from export.canonical import ImageForm
from export.graph import attributes_of, fresh_name, node_label
from export.graph_builder import GraphBuilder, model_bytes
from export.layers import lower_layers
from export.litert_builder import LiteRtBuilder
from export.origin import origin_of
from export.passes.guarantee import require_guarantees
from export.passes.qonnx_graph import QonnxGraph
from export.passes.rule import (
    Codes,
    Context,
    LoweringError,
    Refusal,
)
from export.passes.weighted_sum import Affine, affine_of
from export.reading import refuses_malformed
from export.reference import IntegerReference, LiteRtReference, QdqReference
from export.reference.network import Reference
from export.signed_images import write_with_bytes
from export.source_run import NAME, SourceRun
from export.storage import versions_for
from export.targets import LITERT, ONNXRUNTIME, Target, target_named
from export.third_party import SourceComparison, compare_with_source, noise, require_within

IMAGES, LOGITS = "images", "logits"
"""Names of input and output in the files written here, whatever the QONNX file calls them."""

NOTED = "source"
"""Marks a note of the source in the log, in place of a rule's name."""

FLOAT = Budget(logits=1e-2, flips=0.25)
"""Budget of a float file against its source, which sums float32 in another order."""


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """The result of a lowering: the file, its SHA-256 and size, a line per layer, the names of the
    guarantees that were checked on the finished graph, how its weights are stored and what it is
    tuned for (None: float32, nothing), and how it compares with its source in an engine (None: it
    was not run, because ONNX Runtime is not installed)."""

    path: Path
    sha256: str
    size_bytes: int
    log: tuple[str, ...]
    guarantees: tuple[str, ...] = ()
    storage: str | None = None
    tune: str | None = None
    source: SourceComparison | None = None


@refuses_malformed
def lower(
    qonnx: Path,
    out: Path,
    *,
    target: str = "onnxruntime",
    storage: str | None = None,
    tune: str | None = None,
    form: ImageForm | None = None,
    images: NDArray[np.uint8] | None = None,
    budget: Budget | None = None,
) -> Lowered:
    """Lower a quantized file for ``target`` and write it to ``out``.

    Before the file is put in place, it is loaded and run in ONNX Runtime, and compared with its
    source, which is run independently (:mod:`export.third_party`).

    Args:
        qonnx: the QONNX or Q/DQ file.
        out: the file to write.
        target: one of :data:`export.targets.TARGETS`.
        storage: of the weights; None: the target's own default.
        tune: what its kernels are chosen for (:data:`export.passes.kernels.TUNES`); None: likewise.
        form: how the image's bytes become the file's input; None: the bytes are the input.
        images: to compare on, uint8 N×C×H×W; None: a few images of noise.
        budget: the allowed difference of the engine's logits from the source's; None sets no bound
            there; the layers have their own bound.

    Raises:
        InputError: the file is damaged, or target, storage or tune is unknown; an engine does not
            load what was written.
        LoweringError: a layer cannot be lowered; names it and each rule's reason.
        SourceError: what was written is further from its source than the budget allows.
        ContractError: a pass broke its contract, or the file its target's guarantees.
    """
    chosen = target_named(target)
    storage = _known("storage", storage, chosen.storages, target)
    tune = _known("tune", tune, chosen.tunes, target)
    source = QonnxGraph(qonnx, form)
    if not any(source.is_quant(node) or source.is_sign(node) for node in source.nodes):
        raise LoweringError(
            f"{qonnx} has no quantized layer; expected a QONNX or Q/DQ file (`qadtr inspect` "
            "lists what runs in a float file)"
        )
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
    context.builder.promise(n.output[0] for n in source.nodes if source.is_quant(n))
    log = lower_layers(chosen, context)
    guarantees: tuple[str, ...]
    whole = budget or Budget(logits=None, flips=1.0)
    facts = context.codes
    if context.litert is not None:
        data, guarantees = _litert_bytes(context.litert, source)
    else:
        model, guarantees = _finish(context.builder, source, chosen)
        data = model_bytes(model)
    check = _Check(source=source, images=images, target=chosen, whole=whole, facts=facts)
    made = _put(data, out, check)
    log = [f"{note} [{NOTED}]" for note in source.notes] + log
    return replace(made, log=tuple(log), guarantees=guarantees, storage=storage, tune=tune)


@refuses_malformed
def lower_float(qonnx: Path, out: Path, *, target: str = "onnxruntime") -> Lowered:
    """Lower the float baseline: the same network without quantizers, BatchNorm folded into
    convolutions, and the target's images cast inside.

    Raises:
        InputError: the file is damaged or has quantizers, or the target is unknown.
    """
    chosen = target_named(target)
    if chosen is LITERT:
        raise InputError(
            "the target 'litert' has no float baseline; give the integer bit-widths with --bits"
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
            raise InputError(f"{qonnx}: expected a float network, but {node_label(node)} quantizes")
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
    model, _ = _finish(builder, source, chosen, integer=False)
    check = _Check(source=source, images=None, target=chosen, whole=FLOAT)
    return replace(_put(model_bytes(model), out, check), log=tuple(log))


@dataclass(frozen=True, kw_only=True)
class _Check:
    """The checks of a written file; ``facts`` of the codes in an integer one."""

    source: QonnxGraph
    images: NDArray[np.uint8] | None
    target: Target
    whole: Budget
    facts: Mapping[str, Codes] = field(default_factory=dict)

    def of(self, path: Path) -> SourceComparison | None:
        """Compare a file with its source; None if there is no engine.

        Raises:
            InputError: the engine does not load the file, or the source does not run.
            SourceError: the file does not compute what its source does.
        """
        images = noise(self.source) if self.images is None else self.images
        ran = self._ran(path, images)
        if ran is None:
            return None
        if not self.facts:
            theirs = SourceRun(self.source.path).run(self.source.form.input_of(images))[""]
            require_within(departure(ran, (NAME, theirs), FLOAT))
            return None
        facts = dict(self.facts)
        reference: Reference[Any]
        if self.target.name == LITERT.name:
            reference = LiteRtReference(path)
            facts = {layer: _as_bytes(codes) for layer, codes in facts.items()}
        elif self.target.name == ONNXRUNTIME.name:
            reference = IntegerReference(path)
            require_within(departure(ran, ("its reference", reference.run(images)), EQUAL))
        else:
            reference = QdqReference(path)
        return compare_with_source(
            self.source,
            reference,
            facts,
            ran,
            images,
            whole=self.whole,
            as_values=isinstance(reference, QdqReference),
        ).required()

    def _ran(self, path: Path, images: NDArray[np.uint8]) -> tuple[str, NDArray[np.float32]] | None:
        """An engine's name and its logits; None if it is not installed."""
        litert = self.target.name == LITERT.name
        with tempfile.TemporaryDirectory(prefix="qadtr-lower-") as folder:
            if not litert and self.target.image_type == TensorProto.INT8:
                path = write_with_bytes(path, Path(folder) / "bytes.onnx")
            try:
                with (LiteRtEngine if litert else OnnxRuntimeEngine)(path) as engine:
                    return engine.name, run_all(engine, images)
            except EngineUnavailable:
                return None


def _as_bytes(codes: Codes) -> Codes:
    """int8 codes as the reference of LiteRT returns them."""
    return replace(
        codes, zero_point=codes.zero_point + 128, low=codes.low + 128, high=codes.high + 128
    )


def _put(data: bytes, out: Path, check: _Check) -> Lowered:
    """Write the file beside its place, check it there, and move it into place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".candidate-", dir=out.parent) as folder:
        candidate = Path(folder) / out.name
        write_atomic(candidate, data)
        found = check.of(candidate)
        candidate.replace(out)
    return Lowered(
        path=out,
        sha256=sha256_of_bytes(data),
        size_bytes=len(data),
        log=(),
        source=found,
    )


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


def _litert_bytes(builder: LiteRtBuilder, source: QonnxGraph) -> tuple[bytes, tuple[str, ...]]:
    """The finished .tflite file, and the names of the guarantees that it satisfies."""
    described = source.model.doc_string if origin_of(source.model) is not None else ""
    data = builder.bytes(source.model.graph.name, IMAGES, LOGITS, described)
    require_contents(data, LITERT.name, f"the .tflite file of {source.path}")
    return data, ("only operators of the target", "integers throughout")


def _finish(
    builder: GraphBuilder, source: QonnxGraph, target: Target, *, integer: bool = True
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The finished model, and the names of the guarantees that it satisfies."""
    image, logits = source.image, source.logits
    _, channels, height, width = source.shapes[image]
    shape = source.shapes.get(logits, ())
    classes = math.prod(shape[1:])
    if not shape or classes < 1:
        raise LoweringError(
            f"{source.path}: its output {logits!r} has the shape {list(shape)}; expected one "
            "number for each class"
        )
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
    return model, guarantees
