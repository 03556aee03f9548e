"""Inputs for a run whose result does not matter: noise of a file's own types and shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.errors import InputError, UsageError
from deploy.core.images import check_images
from deploy.core.text import shape_in_words
from export.graph import graph_inputs, input_dims, type_name

BATCH = 1
"""Length of the first dimension if the file leaves it open."""

MAX_ELEMENTS = 2**27
"""Largest size of one input; a file with a larger one is refused."""

_FEEDABLE = {
    "float", "double", "float16", "bool",
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
}  # fmt: skip


def noise_for(
    model: onnx.ModelProto,
    *,
    open_size: int = 32,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return an array for each input of a model; every call returns the same ones.

    uint8 is uniform over all bytes, float in −1…1; other integers are 0, since they may be indices.

    Args:
        open_size: length of a dimension that the file leaves open (the first one: ``BATCH``; the
            second of four: 3, the channels of an image).
        shapes: of inputs, by name, in place of those that the file states.

    Raises:
        InputError: no array can be made for an input.
        UsageError: a shape for an input that the file does not have.
    """
    given = dict(shapes or {})
    inputs = graph_inputs(model)
    unknown = sorted(given.keys() - {value.name for value in inputs})
    if unknown:
        named = ", ".join(value.name for value in inputs) or "none"
        raise UsageError(f"there is no input {', '.join(unknown)}; the file's inputs: {named}")
    rng = np.random.default_rng(0)
    return {value.name: _noise(rng, value, given.get(value.name), open_size) for value in inputs}


def feeds_of_images(model: onnx.ModelProto, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Return images, uint8 N×3×H×W, as the only input of a classifier, in its type and batch size.

    Raises:
        InputError: the model takes something else.
    """
    check_images(images)
    inputs = graph_inputs(model)
    dims = input_dims(inputs[0]) if len(inputs) == 1 else ()
    if len(dims) != 4:
        found = ", ".join(f"{one.name} {list(input_dims(one))}" for one in inputs) or "none"
        raise InputError(f"expected one input of images N×3×H×W, found {found}")
    fits = all(
        wanted in (None, 0, got) for wanted, got in zip(dims[1:], images.shape[1:], strict=True)
    )
    if not fits:
        wanted = shape_in_words(dims[1:])
        raise InputError(
            f"input {inputs[0].name!r} takes images of {wanted}, but the sample has "
            f"{shape_in_words(images.shape[1:])}"
        )
    batch = dims[0] or len(images)
    fed = images[np.arange(batch) % len(images)]
    return {inputs[0].name: fed.astype(_dtype(inputs[0]))}


def _dtype(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    kind = value.type.WhichOneof("value")
    name = type_name(value.type.tensor_type.elem_type)
    if kind != "tensor_type" or name not in _FEEDABLE:
        what = name if kind == "tensor_type" else str(kind)
        raise InputError(
            f"input {value.name!r} is {what}; sample values can only be generated for tensors of "
            f"{', '.join(sorted(_FEEDABLE))}"
        )
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _noise(
    rng: np.random.Generator,
    value: onnx.ValueInfoProto,
    given: Sequence[int] | None,
    open_size: int,
) -> NDArray[Any]:
    dtype = _dtype(value)
    if given is None and not value.type.tensor_type.HasField("shape"):
        raise InputError(f"input {value.name!r} has no shape in the file; give one")
    shape = _filled(input_dims(value), open_size) if given is None else tuple(given)
    if any(dim < 0 for dim in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise InputError(
            f"input {value.name!r} has shape {list(shape)}, but at most {MAX_ELEMENTS:,} sample "
            "values are generated"
        )
    if dtype == np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if dtype.kind == "f":
        return rng.uniform(-1.0, 1.0, shape).astype(dtype)
    return np.zeros(shape, dtype)


def _filled(dims: tuple[int | None, ...], open_size: int) -> tuple[int, ...]:
    def length(index: int) -> int:
        if index == 0:
            return BATCH
        return 3 if index == 1 and len(dims) == 4 else open_size

    return tuple(dim or length(index) for index, dim in enumerate(dims))
