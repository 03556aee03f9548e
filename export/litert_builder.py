"""Build a ``.tflite`` file (LiteRT, once TensorFlow Lite) whose bytes depend only on its content.

One subgraph, one input, one output.  Tensors of four dimensions have the channels last, as LiteRT's
kernels require.  The schema is the one of ``ai-edge-litert``, imported here only for writing;
:mod:`deploy.core.tflite_file` reads files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import EngineUnavailable, InputError
from deploy.core.installing import install_command

FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
ALIGNMENT = 16
"""Alignment of stored data, as the schema requires; Python's packer does not ensure it."""

_TYPES: Mapping[str, str] = {"int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64"}

_OPTIONS: Mapping[str, str] = {
    "ADD": "AddOptions",
    "CAST": "CastOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "GATHER": "GatherOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MEAN": "ReducerOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "MUL": "MulOptions",
    "PAD": "PadOptions",
    "PADV2": "PadV2Options",
    "QUANTIZE": "QuantizeOptions",
    "RESHAPE": "ReshapeOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "SLICE": "SliceOptions",
    "TRANSPOSE": "TransposeOptions",
}
"""By operator, its table of options in the schema."""

_VERSIONS: Mapping[str, int] = {
    "ADD": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 7,
    "MAX_POOL_2D": 2,
    "MAXIMUM": 2,
    "MEAN": 2,
    "MINIMUM": 2,
    "MUL": 2,
    "PAD": 2,
    "QUANTIZE": 2,
    "RESIZE_NEAREST_NEIGHBOR": 2,
    "SLICE": 2,
    "TRANSPOSE": 2,
}
"""By operator, the first version that has int8 (or int16) kernels with these options; others: 1."""


class LiteRtBuilder:
    """Collects tensors and operators in order; :meth:`bytes` assembles the file.

    Raises:
        EngineUnavailable: ai-edge-litert is not installed.
    """

    def __init__(self) -> None:
        self._schema = _schema()
        self._tensors: list[Any] = []
        self._numbers: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._data: list[bytes] = [b""]  # buffer 0 is empty by definition
        self._operators: list[Any] = []
        self._codes: dict[str, int] = {}

    def shape_of(self, tensor: str) -> tuple[int, ...]:
        """The dimensions of a tensor in the file, with a batch of 1."""
        return self._shapes[tensor]

    def tensor(
        self,
        hint: str,
        shape: Sequence[int],
        kind: str,
        *,
        scales: Sequence[np.float32] | NDArray[np.floating] = (),
        zero_point: int = 0,
        axis: int = 0,
        batched: bool = True,
    ) -> str:
        """Declare a tensor that an operator or the caller fills; returns its name.

        Args:
            hint: the wanted name, which is made unique.
            shape: with a batch of 1 in front, if ``batched``.
            kind: numpy's name of the element type, one of int8, int16, int32 and int64.
            scales: one, or one per entry along ``axis``; none: it holds no codes.
            zero_point: of the codes.
            axis: of the scales.
            batched: whether the first dimension is the batch, which a caller may change.
        """
        name, number = hint, 1
        while name in self._numbers:
            number += 1
            name = f"{hint}_{number}"
        made = self._schema.TensorT()
        made.name = name.encode()
        made.shape = np.asarray(shape, np.int32)
        if batched:
            made.shapeSignature = np.asarray([-1, *shape[1:]], np.int32)
        made.type = getattr(self._schema.TensorType, _TYPES[kind])
        made.hasRank = True
        if len(scales):
            made.quantization = self._schema.QuantizationParametersT()
            made.quantization.scale = np.asarray(scales, np.float32)
            made.quantization.zeroPoint = np.full(len(scales), zero_point, np.int64)
            made.quantization.quantizedDimension = axis
        self._numbers[name] = len(self._tensors)
        self._shapes[name] = tuple(int(size) for size in shape)
        self._tensors.append(made)
        return name

    def constant(
        self,
        array: NDArray[Any],
        hint: str,
        *,
        scales: Sequence[np.float32] | NDArray[np.floating] = (),
        zero_point: int = 0,
        axis: int = 0,
    ) -> str:
        """A stored tensor; arguments as :meth:`tensor`."""
        name = self.tensor(
            hint,
            array.shape,
            str(array.dtype),
            scales=scales,
            zero_point=zero_point,
            axis=axis,
            batched=False,
        )
        data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        if data not in self._data:
            self._data.append(data)
        self._tensors[-1].buffer = self._data.index(data)
        return name

    def add(self, operator: str, inputs: Sequence[str], output: str, **options: Any) -> str:
        """Append an operator with one output, a declared tensor; returns the tensor's name.

        ``options`` are the fields of the operator's options in the schema.
        """
        made = self._schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault(operator, len(self._codes))
        made.inputs = np.asarray([self._numbers[name] for name in inputs], np.int32)
        made.outputs = np.asarray([self._numbers[output]], np.int32)
        table = _OPTIONS[operator]
        made.builtinOptionsType = getattr(self._schema.BuiltinOptions, table)
        made.builtinOptions = getattr(self._schema, f"{table}T")()
        for name, value in options.items():
            if not hasattr(made.builtinOptions, name):
                raise AttributeError(f"{table} has no field {name}")
            setattr(made.builtinOptions, name, value)
        self._operators.append(made)
        return output

    def enum(self, kind: str, name: str) -> int:
        """A value of one of the schema's enumerations, such as ("Padding", "VALID")."""
        return int(getattr(getattr(self._schema, kind), name))

    def bytes(self, name: str, image: str, logits: str, description: str) -> bytes:
        """The file: a graph called ``name`` from the tensor ``image`` to the tensor ``logits``."""
        import flatbuffers  # comes with ai-edge-litert

        graph = self._schema.SubGraphT()
        graph.name = name.encode()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs = np.asarray([self._numbers[image]], np.int32)
        graph.outputs = np.asarray([self._numbers[logits]], np.int32)
        model = self._schema.ModelT()
        model.version = SCHEMA_VERSION
        model.description = description.encode()
        model.subgraphs = [graph]
        model.operatorCodes = [self._operator_code(operator) for operator in self._codes]
        model.buffers = [_AlignedBuffer(self._schema, data) for data in self._data]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _operator_code(self, operator: str) -> Any:
        made = self._schema.OperatorCodeT()
        made.builtinCode = getattr(self._schema.BuiltinOperator, operator)
        # Readers from before 2020 read this field, and 127 refers them to the other one.
        made.deprecatedBuiltinCode = min(made.builtinCode, 127)
        made.version = _VERSIONS.get(operator, 1)
        return made


class _AlignedBuffer:
    """A Buffer of the schema whose data start at a multiple of :data:`ALIGNMENT`."""

    def __init__(self, schema: Any, data: bytes) -> None:
        self._schema, self._data = schema, data

    def Pack(self, builder: Any) -> int:
        """Write it, as the schema's own BufferT does."""
        data = None
        if self._data:
            builder.StartVector(1, len(self._data), ALIGNMENT)
            builder.head -= len(self._data)
            builder.Bytes[builder.head : builder.head + len(self._data)] = self._data
            data = builder.EndVector()
        self._schema.BufferStart(builder)
        if data is not None:
            self._schema.BufferAddData(builder, data)
        return int(self._schema.BufferEnd(builder))


def with_outputs(model: bytes, tensors: Sequence[str]) -> bytes:
    """A copy of a file with these tensors, by name, as further outputs.

    Raises:
        InputError: it has no such tensor.
    """
    schema = _schema()
    import flatbuffers

    found = schema.ModelT.InitFromPackedBuf(model)
    graph = found.subgraphs[0]
    numbers = {tensor.name.decode(): number for number, tensor in enumerate(graph.tensors)}
    missing = [name for name in tensors if name not in numbers]
    if missing:
        raise InputError(f"the .tflite file has no tensor {missing[0]!r}")
    graph.outputs = np.array([*graph.outputs, *(numbers[name] for name in tensors)], np.int32)
    found.buffers = [
        _AlignedBuffer(schema, b"" if one.data is None else bytes(bytearray(one.data)))
        for one in found.buffers
    ]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(found.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated  # imported here, since it is an extra
    except ImportError as error:
        raise EngineUnavailable(
            f"the target 'litert' needs the package ai-edge-litert ({error}); install it: "
            f"{install_command('litert')}"
        ) from error
    return schema_py_generated
