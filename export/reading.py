"""Read an ONNX file that may be missing, truncated, corrupt or hostile.

Every fault found here is one :class:`~deploy.core.errors.InputError` that names the file and the
fault. Nothing from the file is evaluated, and no data outside the file's own folder is opened. The
module imports only onnx, so that the integer reference can use it.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper

from deploy.core.errors import InputError, QadtrError
from export.graph import graphs_of, input_dims, node_label, type_name

MAX_FILE_BYTES = 2**31 - 1
"""Protobuf's own limit for one message; a larger ONNX file cannot be valid."""

MAX_TENSOR_ELEMENTS = 2**31 - 1
"""Far above any tensor of this project's networks; a larger shape is damaged or hostile."""

MOST_ACTIVATIONS = 1 << 26
"""Elements of one tensor between the nodes, for one image: 64 channels of 1,024 × 1,024."""

FEW_ACTIVATIONS = 1 << 22
MOST_TIMES_THE_IMAGE = 1024
"""A tensor of a small image may have this many elements, or this many times the image's."""


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# The exceptions of Python if a part of a file is missing, of another type or out of range.
_OF_A_MALFORMED_FILE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
)


@contextmanager
def refusing_malformed(path: Path | str) -> Iterator[None]:
    """Turn exceptions on malformed parts of a file into one error that names the file.

    :func:`read_model` checks what holds for every ONNX file. Only the reader of an operator knows
    what its attributes and shapes must be, and a hostile file may have others.
    """
    try:
        yield
    except QadtrError as error:
        if Path(path).name in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
    except _OF_A_MALFORMED_FILE as error:
        raise InputError(
            f"{path} is malformed: a part is missing, or has another type or shape than its "
            f"operator requires ({type(error).__name__}: {error}); export it again"
        ) from error


def refuses_malformed(
    function: Callable[Concatenate[Path, _Arguments], _Result],
) -> Callable[Concatenate[Path, _Arguments], _Result]:
    """Decorate a function of a path so that it works under :func:`refusing_malformed`."""

    def guarded(path: Path, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with refusing_malformed(path):
            return function(path, *args, **kwargs)

    return functools.update_wrapper(guarded, function)


def read_model(path: Path | str, *, max_bytes: int = MAX_FILE_BYTES) -> onnx.ModelProto:
    """Read and check one ONNX file, with all its tensors in memory.

    It checks: the file parses; its IR and opset versions are known ones; its graph has nodes and
    outputs; every node has an operator, an output and attributes of a known type; every tensor
    that a node or an output reads is a graph input, an initializer or the output of an *earlier*
    node (which excludes cycles and missing initializers); no tensor has two producers; every stored
    tensor holds as many bytes as its shape requires; external data are in the file's own folder.

    Args:
        path: the ONNX file.
        max_bytes: files larger than this (external data included) are refused.

    Raises:
        InputError: names the file and the first fault in it.
    """
    path = Path(path)
    model = _parse(path, max_bytes)
    if model.graph.input and model.graph.output and not model.graph.node:
        raise InputError(
            f"{path}: its graph has no nodes, so its output is its input; expected a network"
        )
    if not model.graph.node or not model.graph.output:
        raise InputError(
            f"{path} holds no ONNX graph: expected nodes and outputs, found "
            f"{len(model.graph.node)} nodes and {len(model.graph.output)} outputs: the file is "
            "not an ONNX file or was truncated; export it again"
        )
    _check_versions(model, path)
    _load_external_data(model, path, max_bytes)
    for tensor in _tensors_of(model.graph):
        _check_tensor(tensor, path)
    for graph in graphs_of(model.graph):
        for node in graph.node:
            _check_node(node, path)
    _check_inputs(model.graph, path)
    _check_wiring(model.graph, path)
    return model


def require_sizes(
    path: Path, shapes: Mapping[str, tuple[int, ...]], image: tuple[int, ...]
) -> None:
    """Refuse a file that would compute a tensor larger than any network's.

    A padding, a stride or a size in it is damaged, and running it would exhaust memory.

    Args:
        path: of the file, for the error.
        shapes: of its tensors, by name, the batch first; 0 if a length is not known.
        image: (C, H, W).

    Raises:
        InputError: names the tensor.
    """
    most = min(MOST_ACTIVATIONS, max(FEW_ACTIVATIONS, MOST_TIMES_THE_IMAGE * math.prod(image)))
    for name, shape in shapes.items():
        if math.prod(shape[1:]) > most:
            raise InputError(
                f"{path}: the tensor {name!r} would have the shape {list(shape[:9])}, but at "
                f"most {most:,} numbers are expected for an image {list(image)}; check the "
                "paddings, strides and sizes before it"
            )


def _parse(path: Path, max_bytes: int) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"expected an ONNX file, but {path} is a folder or a device")
        if size > max_bytes:
            raise InputError(
                f"{path} has {size:,} bytes, but at most {max_bytes:,} are read: an ONNX file of "
                "this size is damaged or not meant for this tool"
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the ONNX file {path}: {error.strerror or error}") from error
    if not data:
        raise InputError(f"{path} is empty: expected an ONNX file; export it again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError) as error:
        raise InputError(
            f"{path} ({size:,} bytes) is not an ONNX file or was truncated: {error}; "
            "export it again"
        ) from error
    return model


def _check_versions(model: onnx.ModelProto, path: Path) -> None:
    newest_ir, newest_opset = onnx.IR_VERSION, onnx.defs.onnx_opset_version()
    if not 1 <= model.ir_version <= newest_ir:
        raise InputError(
            f"{path} has IR version {model.ir_version}, expected 1 to {newest_ir}: it is "
            "damaged, or was written by a newer onnx than the installed one"
        )
    domains = ["" if e.domain == "ai.onnx" else e.domain for e in model.opset_import]
    standard = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(set(domains)) != len(domains):
        raise InputError(f"{path} states the opset of a domain twice: {sorted(domains)}")
    if len(standard) != 1 or not 1 <= standard[0] <= newest_opset:
        raise InputError(
            f"{path} has opset {standard[0] if standard else 'none'} of ONNX's own operators, "
            f"expected 1 to {newest_opset}: it is damaged, or newer than the installed onnx"
        )


def _check_node(node: onnx.NodeProto, path: Path) -> None:
    if not node.op_type or not any(node.output):
        raise InputError(
            f"{path}: node {node_label(node)} has no {'output' if node.op_type else 'operator'}: "
            "the file is damaged; export it again"
        )
    names = [attribute.name for attribute in node.attribute]
    for attribute in node.attribute:
        try:
            if attribute.type == onnx.AttributeProto.UNDEFINED:
                raise ValueError("its type is not given")
            helper.get_attribute_value(attribute)
        except (ValueError, TypeError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path}: attribute {attribute.name!r} of node {node_label(node)} has no value of "
                f"a known type: {error}"
            ) from error
    if len(set(names)) != len(names):
        raise InputError(
            f"{path}: node {node_label(node)} has the same attribute twice: {sorted(names)}"
        )


def _tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for one in graphs_of(graph):
        yield from one.initializer
        for node in one.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _load_external_data(model: onnx.ModelProto, path: Path, max_bytes: int) -> None:
    """Load external data, only from the model's folder, with links resolved."""
    folder = path.resolve().parent
    total = 0
    for tensor in _tensors_of(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = Path(os.path.realpath(folder / location.replace("\0", "?")))
        if not location or not file.is_relative_to(folder) or file == folder:
            raise InputError(
                f"{path}: tensor {tensor.name!r} reads its data from {location!r}, which is "
                f"outside the model's folder {folder}; only files inside that folder are opened"
            )
        try:
            offset = int(entries.get("offset", "0"))
            if file.exists() and not file.is_file():  # reading a pipe would block
                raise OSError("it is not a file")
            size = file.stat().st_size
            length = int(entries.get("length", str(size - offset)))
            total += length
            if min(offset, length) < 0 or offset + length > size or total > max_bytes:
                raise InputError(
                    f"{path}: tensor {tensor.name!r} reads the bytes {offset}…{offset + length} "
                    f"of {location!r}, which has {size:,} (at most {max_bytes:,} are read in "
                    "total)"
                )
            with file.open("rb") as stream:
                stream.seek(offset)
                tensor.raw_data = stream.read(length)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: the data of tensor {tensor.name!r} in {location!r} cannot be read: "
                f"{error}"
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


_BITS: dict[int, int] = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.INT64: 64,
    onnx.TensorProto.UINT64: 64,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.UINT32: 32,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.BOOL: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT2: 2,
    onnx.TensorProto.UINT2: 2,
}


def _check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """Compare the declared size of a stored tensor with its data, before allocating anything."""
    what = f"{path}: tensor {tensor.name!r} ({type_name(tensor.data_type)}{list(tensor.dims)})"
    if any(dim < 0 for dim in tensor.dims):
        raise InputError(f"{what} has a negative dimension")
    elements = math.prod(tensor.dims)
    if elements > MAX_TENSOR_ELEMENTS:
        raise InputError(f"{what} declares {elements:,} values, more than any network has")
    bits = _BITS.get(tensor.data_type)
    if tensor.HasField("raw_data") and bits is not None:
        expected = (elements * bits + 7) // 8
        if len(tensor.raw_data) != expected:
            raise InputError(
                f"{what} must have {expected:,} bytes but has {len(tensor.raw_data):,}: the file "
                "is damaged; export it again"
            )
    elif elements > 0 and bits is not None:
        held = max(
            len(tensor.float_data),
            len(tensor.int32_data),
            len(tensor.int64_data),
            len(tensor.double_data),
            len(tensor.uint64_data),
        )
        per_entry = 8 // bits if bits < 8 else 1
        if held < -(-elements // per_entry):
            raise InputError(
                f"{what} must have {elements:,} values but has {held * per_entry:,}: the file is "
                "damaged or its data are missing; export it again"
            )


def _check_inputs(graph: onnx.GraphProto, path: Path) -> None:
    for value in graph.input:
        dims = [dim or 1 for dim in input_dims(value)]
        if any(dim < 0 for dim in dims) or math.prod(dims) > MAX_TENSOR_ELEMENTS:
            raise InputError(
                f"{path}: input {value.name!r} has the shape {dims}, which is not a "
                "valid shape for images"
            )


def _check_wiring(graph: onnx.GraphProto, path: Path) -> None:
    stored = [tensor.name for tensor in graph.initializer]
    stored += [tensor.values.name for tensor in graph.sparse_initializer]
    if len(set(stored)) != len(stored):
        twice = sorted({name for name in stored if stored.count(name) > 1})
        raise InputError(f"{path}: initializers stored twice: {', '.join(twice)}")
    inputs = [value.name for value in graph.input]
    if len(set(inputs)) != len(inputs) or "" in inputs:
        raise InputError(
            f"{path}: the names of its inputs are missing or not unique: {sorted(inputs)}"
        )
    known = set(stored) | set(inputs)
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise InputError(
                    f"{path}: node {node_label(node)} reads tensor {name!r}, which no input, "
                    "initializer or earlier node gives: an initializer is missing, the graph has "
                    "a cycle, or its nodes are out of order"
                )
        for name in node.output:
            if name and name in known:
                raise InputError(
                    f"{path}: node {node_label(node)} writes the tensor {name!r}, which "
                    "exists already"
                )
            known.add(name)
    for value in graph.output:
        if value.name not in known:
            raise InputError(
                f"{path}: no node writes the output {value.name!r}: the file was truncated or is "
                "damaged; export it again"
            )
