"""A foreign classifier as one graph of bytes: ``images`` uint8 N×C×H×W in, ``logits`` out.

The file's input is a function of each byte of the image, (byte / 255 - mean) / std, so it is looked
up per channel in a table of the 256 float32 values. No arithmetic is done on images, and the values
are bit for bit those that numpy and torchvision compute. If the file quantizes its image at once,
the table holds the codes, and there is no float before the first layer:

    file(x), x = (byte / 255 - mean) / std    →  file(T[channel, byte])
    QuantizeLinear(x; s, z)                   →  T[channel, byte] = clip(round(x / s) + z)

A file that takes bytes only gets other tensor names. Channels-last input has a Transpose after the
table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import InputError
from deploy.core.text import shape_in_words
from deploy.device.onnxruntime_engine import INPUT_NAME, OUTPUT_NAME
from export.foreign_model import ForeignModel
from export.graph import (
    attributes_of,
    fresh_name,
    graph_inputs,
    graphs_of,
)
from export.graph_builder import PRODUCER

_NEWEST_IR = {10: 21, 13: 25}
"""By IR version, the newest opset that it may have; ONNX Runtime reads no newer format."""


def adopted_model(
    foreign: ForeignModel, logits: NDArray[Any], *, description: str
) -> onnx.ModelProto:
    """The graph with the preprocessing in it.

    Args:
        foreign: from :func:`read_foreign`.
        logits: N×C… of a run of the file itself; their shape and type decide which nodes follow.
        description: kept in the model's ``doc_string``.

    Raises:
        InputError: the output is not logits.
    """
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    _strip(model)
    graph = model.graph
    image = graph_inputs(model)[0].name
    output = graph.output[0].name
    taken = _all_names(graph)
    as_it_is = foreign.image_type == TensorProto.UINT8 and not foreign.channels_last
    names = {
        image: INPUT_NAME if as_it_is else fresh_name("input", taken),
        output: OUTPUT_NAME if _are_logits(logits) else fresh_name("output", taken),
    }
    for name in (INPUT_NAME, OUTPUT_NAME):
        if name in taken and name not in names:
            names[name] = fresh_name(f"{name}.inner", taken)
    _rename(graph, names)
    nodes = [] if as_it_is else _before(foreign, names[image], graph, taken)
    nodes += graph.node
    if not _are_logits(logits):
        nodes += _after(logits, names[output], foreign.path)
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    batch: int | str = foreign.batch or "N"
    shape = [batch, *foreign.shape]
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, shape))
    classes = int(np.prod(logits.shape[1:]))
    graph.output.append(
        helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [batch, classes])
    )
    model.doc_string, model.producer_name = description, PRODUCER
    opset = next(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
    newest = next((ir for ir, newest in _NEWEST_IR.items() if opset <= newest), max(_NEWEST_IR))
    model.ir_version = max(4, min(model.ir_version, newest))
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Remove the metadata on where and how the file was made, stored tensors among the inputs, and
    unused operator sets: ONNX Runtime lists all that it knows in files that it saves.
    """
    graph = model.graph
    used = {"", "ai.onnx", *(node.domain for one in graphs_of(graph) for node in one.node)}
    imported = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imported)
    del (
        model.metadata_props[:],
        model.training_info[:],
        graph.value_info[:],
        graph.metadata_props[:],
    )
    graph.name, graph.doc_string, model.producer_version = "adopted", "", ""
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    inputs = graph_inputs(model)
    del graph.input[:]
    graph.input.extend(inputs)


def _all_names(graph: onnx.GraphProto) -> set[str]:
    named = {name for node in graph.node for name in (*node.input, *node.output)}
    return named | {one.name for one in graph.initializer}


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for stored in graph.initializer:
        stored.name = names.get(stored.name, stored.name)


def _are_logits(logits: NDArray[Any]) -> bool:
    return logits.ndim == 2 and logits.dtype == np.float32


def _before(
    foreign: ForeignModel, inner: str, graph: onnx.GraphProto, taken: set[str]
) -> list[onnx.NodeProto]:
    """The nodes that compute the file's image, ``inner``, or its codes."""
    nodes: list[onnx.NodeProto] = []

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(name: str, value: NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, fresh_name(name, taken)))
        return str(graph.initializer[-1].name)

    name = INPUT_NAME
    if foreign.image_type != TensorProto.UINT8:
        table = _table(foreign)
        quantizer = _only_quantizer(inner, graph)
        if quantizer is not None:
            table = _codes(table, *quantizer[1:])
            graph.node.remove(quantizer[0])
            _rename(graph, {quantizer[0].output[0]: inner})
        index = add("Cast", [name], fresh_name("images.index", taken), to=TensorProto.INT64)
        if (table != table[:1]).any():
            offsets = 256 * np.arange(len(table), dtype=np.int64).reshape(-1, 1, 1)
            inputs = [index, constant("images.offset", offsets)]
            index = add("Add", inputs, fresh_name("images.row", taken))
        else:
            table = table[:1]
        last = fresh_name("images.values", taken) if foreign.channels_last else inner
        stored = constant("images.table", table.reshape(-1))
        name = add("Gather", [stored, index], last, axis=0)
    if foreign.channels_last:
        add("Transpose", [name], inner, perm=[0, 2, 3, 1])
    return nodes


def _table(foreign: ForeignModel) -> NDArray[Any]:
    """The file's input for each byte of each channel, C×256 in the type of its input."""
    values = foreign.form.bytes(foreign.shape[0])[0, :, :, 0]
    return values.astype(helper.tensor_dtype_to_np_dtype(foreign.image_type))


def _only_quantizer(
    inner: str, graph: onnx.GraphProto
) -> tuple[onnx.NodeProto, np.float32, NDArray[Any]] | None:
    """The QuantizeLinear that is the image's only reader, its scale and zero point; else None."""
    readers = [node for node in graph.node if inner in node.input]
    if len(readers) != 1 or readers[0].op_type != "QuantizeLinear" or len(readers[0].input) != 3:
        return None
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        value = attributes_of(node).get("value") if node.op_type == "Constant" else None
        if isinstance(value, onnx.TensorProto):
            stored[node.output[0]] = numpy_helper.to_array(value)
    scale, zero = (stored.get(name) for name in readers[0].input[1:])
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    if zero.dtype not in (np.uint8, np.int8) or scale.dtype != np.float32:
        return None
    return readers[0], np.float32(scale.item()), zero


def _codes(values: NDArray[Any], scale: np.float32, zero: NDArray[Any]) -> NDArray[Any]:
    """QuantizeLinear of ``values``, in float32, half to even."""
    limits = np.iinfo(zero.dtype)
    codes = np.rint(values.astype(np.float32) / scale) + np.float32(zero.item())
    return np.clip(codes, limits.min, limits.max).astype(zero.dtype)


def _after(logits: NDArray[Any], output: str, path: Path) -> list[onnx.NodeProto]:
    """The nodes that convert the file's output to float32 N×C."""
    shape = shape_in_words((None, *logits.shape[1:]))
    if logits.dtype.kind != "f" or logits.ndim < 2 or any(side != 1 for side in logits.shape[2:]):
        raise InputError(
            f"{path}: its output is {logits.dtype} {shape}; expected logits, float N×C; select "
            "the tensor that has them with --output, such as the input of an ArgMax or TopK"
        )
    nodes, name = [], output
    if logits.ndim > 2:
        name = OUTPUT_NAME if logits.dtype == np.float32 else f"{output}.flat"
        nodes.append(helper.make_node("Flatten", [output], [name], name=f"{name}.flatten", axis=1))
    if logits.dtype != np.float32:
        cast = helper.make_node(
            "Cast", [name], [OUTPUT_NAME], name=f"{OUTPUT_NAME}.cast", to=TensorProto.FLOAT
        )
        nodes.append(cast)
    return nodes
