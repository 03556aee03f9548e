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

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper

from deploy.core.errors import InputError, UsageError
from deploy.core.images import GREY_OR_RGB
from deploy.device.onnxruntime_engine import INPUT_NAME, OUTPUT_NAME
from export.canonical.image import ImageForm
from export.canonical.shapes import shapes_of
from export.graph import (
    attributes_of,
    fix_inputs,
    fresh_name,
    graph_inputs,
    graphs_of,
    initializers,
    input_dims,
    type_name,
)
from export.graph_builder import PRODUCER
from export.reading import read_model, refusing_malformed, require_sizes

LAYOUTS = ("NCHW", "NHWC")
OLDEST_OPSET = 7
"""The opset of the added operators, and the oldest that ONNX Runtime guarantees to run."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_NEWEST_IR = {10: 21, 13: 25}
"""By IR version, the newest opset that it may have; ONNX Runtime reads no newer format."""


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """A classifier's file, its one input and the output that was chosen.

    Attributes:
        path: the file.
        model: with only the chosen output, and its local functions inlined; must not be changed.
        shape: (C, H, W) of the images.
        batch: the batch size that the file fixes; None if it is open.
        image_type: ONNX's element type of the input.
        channels_last: whether the input is N×H×W×C.
        form: how a byte becomes the file's input.
    """

    path: Path
    model: onnx.ModelProto
    shape: tuple[int, int, int]
    batch: int | None
    image_type: int
    channels_last: bool
    form: ImageForm

    def input_of(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The input of the file itself for images, uint8 N×C×H×W: float32 of that shape."""
        return self.form.input_of(images)


def read_foreign(
    path: Path, form: ImageForm, *, layout: str = "NCHW", output: str | None = None
) -> ForeignModel:
    """Read a classifier's file and check that it classifies images.

    Args:
        path: the ONNX file; tensors in separate files are included.
        form: mean and std, for an input of floats; the size if the file leaves it open.
        layout: of its input, one of :data:`LAYOUTS`.
        output: name of the tensor of the logits; None: the file's only output.

    Raises:
        InputError: the file is damaged, has more than one input or output, takes something other
            than images, or holds NaN.
        UsageError: the layout, size, mean or std do not fit the file.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"expected --layout as one of {', '.join(LAYOUTS)}, got {layout!r}")
    model = read_model(path)
    if model.functions:
        with refusing_malformed(path):
            model = inliner.inline_local_functions(model)
    image = _only_input(model, path)
    _choose_output(model, path, output)
    _require_finite(model, path)
    opset = next(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
    if opset < OLDEST_OPSET:
        raise InputError(
            f"{path} has opset {opset}, expected {OLDEST_OPSET} or newer: convert it with "
            "onnx.version_converter"
        )
    dims, kind = input_dims(image), image.type.tensor_type.elem_type
    shape = _image_shape(image.name, dims, form, layout, path)
    _require_form(kind, image.name, form, path)
    form.bytes(shape[0])  # refuses another number of means and stds than channels
    _require_sizes(model, image, shape, layout, path)
    return ForeignModel(
        path=path,
        model=model,
        shape=shape,
        batch=dims[0] or None,
        image_type=kind,
        channels_last=layout == "NHWC",
        form=form,
    )


def _require_sizes(
    model: onnx.ModelProto,
    image: onnx.ValueInfoProto,
    shape: tuple[int, int, int],
    layout: str,
    path: Path,
) -> None:
    """Refuse tensors larger than any network's, before an engine allocates them."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    channels, *sides = shape
    batch = input_dims(image)[0] or 1
    dims = [batch, channels, *sides] if layout == "NCHW" else [batch, *sides, channels]
    fix_inputs(sized, {image.name: dims})
    try:
        shapes = shapes_of(sized, path)
    except InputError:  # the engine reports what is wrong with it
        return
    require_sizes(path, shapes, shape)


def _only_input(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    inputs = graph_inputs(model)
    if len(inputs) != 1:
        named = ", ".join(f"{one.name!r} {_shown(input_dims(one))}" for one in inputs) or "none"
        raise InputError(
            f"{path} has {len(inputs)} inputs ({named}); expected one, the images; make the "
            "others constants and export it again"
        )
    return inputs[0]


def _choose_output(model: onnx.ModelProto, path: Path, wanted: str | None) -> None:
    """Keep only one output."""
    graph = model.graph
    names = [one.name for one in graph.output]
    if wanted is None:
        if len(names) != 1:
            raise InputError(
                f"{path} has {len(names)} outputs ({', '.join(names)}); select the logits with "
                f"--output, for example --output {names[0]}"
            )
        wanted = names[0]
    made = [name for node in graph.node for name in node.output if name]
    if wanted not in made:
        raise UsageError(
            f"{path} has no tensor {wanted!r}; its outputs are {', '.join(names)}, before them "
            f"{', '.join(made[-4:])}"
        )
    del graph.output[:]
    graph.output.append(onnx.ValueInfoProto(name=wanted))
    needed, kept = {wanted}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(_read_by(node))
            kept.append(node)
    nodes = list(reversed(kept))
    stored = [one for one in graph.initializer if one.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(stored)


def _read_by(node: onnx.NodeProto) -> set[str]:
    """The tensors that a node reads, including those of its subgraphs."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            names.update(*(_read_by(one) for one in inner.node))
            names.update(one.name for one in inner.output)
    return names


def _require_finite(model: onnx.ModelProto, path: Path) -> None:
    for name, values in initializers(model).items():
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise InputError(
                f"{path}: the stored tensor {name!r} holds {int(np.isnan(values).sum())} NaN "
                f"among {values.size} values: its training diverged, or the file is damaged"
            )


def _shown(dims: tuple[int | None, ...]) -> str:
    return "×".join("open" if side is None else str(side) for side in dims) or "of no shape"


def _image_shape(
    name: str, dims: tuple[int | None, ...], form: ImageForm, layout: str, path: Path
) -> tuple[int, int, int]:
    what = f"{path}: its input {name!r} is {_shown(dims)}"
    if len(dims) != 4:
        raise InputError(f"{what}; expected images, N×C×H×W or N×H×W×C")
    first, last = dims[1] in GREY_OR_RGB, dims[3] in GREY_OR_RGB
    if layout == "NCHW" and last and not first:
        raise UsageError(f"{what}, channels last; give --layout NHWC")
    if layout == "NHWC" and not last:
        raise UsageError(f"{what}, which is not channels last; leave out --layout NHWC")
    if not (first if layout == "NCHW" else last):
        raise InputError(
            f"{what}; expected a fixed number of channels in the file, 1 (grey) or 3 (RGB)"
        )
    channels, *sides = (dims[1], dims[2], dims[3]) if layout == "NCHW" else (dims[3], *dims[1:3])
    if form.size is not None:
        if any(side not in (None, wanted) for side, wanted in zip(sides, form.size, strict=True)):
            raise UsageError(
                f"{what}, but --size is {form.size[0]} {form.size[1]}; leave out --size"
            )
        sides = list(form.size)
    height, width = sides
    if not height or not width:
        raise UsageError(f"{what}, whose height or width is open; give it with --size HEIGHT WIDTH")
    assert channels is not None
    return channels, height, width


def _require_form(kind: int, name: str, form: ImageForm, path: Path) -> None:
    what = f"{path}: its input {name!r} is {type_name(kind)}"
    if kind == TensorProto.UINT8:
        if form.mean is not None:
            raise UsageError(f"{what}, so it takes the bytes; leave out --mean and --std")
        return
    if kind not in _FLOATS:
        raise InputError(f"{what}; expected uint8, float, float16 or double")
    if form.mean is None:
        raise UsageError(
            f"{what}; give its preprocessing, (byte / 255 - mean) / std, with --mean and --std, "
            "as one value or one for each channel: 0 and 1 for an image of 0…1, 0 and "
            "0.00392156863 for 0…255"
        )


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
    shape = _shown((None, *logits.shape[1:]))
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
