"""Read somebody else's ONNX file, and check that it is a classifier of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, inliner

from deploy.core.errors import InputError, UsageError
from deploy.core.images import GREY_OR_RGB
from deploy.core.text import shape_in_words
from export.canonical.image import ImageForm
from export.canonical.shapes import shapes_of
from export.graph import (
    fix_inputs,
    graph_inputs,
    initializers,
    input_dims,
    type_name,
)
from export.reading import read_model, refusing_malformed, require_sizes

LAYOUTS = ("NCHW", "NHWC")
OLDEST_OPSET = 7
"""The opset of the added operators, and the oldest that ONNX Runtime guarantees to run."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


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
        named = (
            ", ".join(f"{one.name!r} {shape_in_words(input_dims(one))}" for one in inputs) or "none"
        )
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


def _image_shape(
    name: str, dims: tuple[int | None, ...], form: ImageForm, layout: str, path: Path
) -> tuple[int, int, int]:
    what = f"{path}: its input {name!r} is {shape_in_words(dims)}"
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
