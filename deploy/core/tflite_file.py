"""The contents of a ``.tflite`` file, read without any package: tensors, operators, stored data.

LiteRT's interpreter runs a file, but does not report what else the file contains.  Only the
contents listed here are read; anything else in a file (custom operators, further subgraphs, data
outside of the file, sparse or variable tensors) is named in :attr:`TfLiteFile.inner`, and code that
needs one plain graph refuses it.

The wire format is that of FlatBuffers: a table starts with the distance to its vtable, which has a
16-bit offset for each field; strings, vectors and tables are reached by unsigned 32-bit distances.
Every position is checked, so that damaged bytes raise ValueError and nothing else.

References: https://flatbuffers.dev/internals, and ``schema.fbs`` of
https://github.com/google-ai-edge/LiteRT.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

IDENTIFIER = b"TFL3"
_MOST_ITEMS = 1_000_000
_MOST_ELEMENTS = (1 << 31) - 1
"""Of one tensor."""

TYPES: Mapping[int, str] = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 5: "string", 6: "bool",
    7: "int16", 8: "complex64", 9: "int8", 10: "float64", 17: "int4", 19: "int2",
}  # fmt: skip
"""Names of the schema's element types; another number is called "type N"."""

OPERATORS: Mapping[int, str] = {
    0: "ADD", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 9: "FULLY_CONNECTED",
    17: "MAX_POOL_2D", 18: "MUL", 22: "RESHAPE", 34: "PAD", 36: "GATHER", 39: "TRANSPOSE",
    40: "MEAN", 53: "CAST", 55: "MAXIMUM", 60: "PADV2", 65: "SLICE", 97: "RESIZE_NEAREST_NEIGHBOR",
    114: "QUANTIZE",
}  # fmt: skip
"""The operators that an export writes, by their number in the schema; another is "operator N"."""

_OPTIONS: Mapping[str, tuple[tuple[str, str, int], ...]] = {
    "ADD": (("activation", "b", 0),),
    "CAST": (),
    "CONCATENATION": (("axis", "i", 0), ("activation", "b", 0)),
    "CONV_2D": (
        ("padding", "b", 0),
        ("stride_w", "i", 0),
        ("stride_h", "i", 0),
        ("activation", "b", 0),
        ("dilation_w", "i", 1),
        ("dilation_h", "i", 1),
    ),
    "DEPTHWISE_CONV_2D": (
        ("padding", "b", 0),
        ("stride_w", "i", 0),
        ("stride_h", "i", 0),
        ("depth_multiplier", "i", 0),
        ("activation", "b", 0),
        ("dilation_w", "i", 1),
        ("dilation_h", "i", 1),
    ),
    "FULLY_CONNECTED": (
        ("activation", "b", 0),
        ("weights_format", "b", 0),
        ("keep_dimensions", "b", 0),
    ),
    "GATHER": (("axis", "i", 0), ("batch_dimensions", "i", 0)),
    "MAX_POOL_2D": (
        ("padding", "b", 0),
        ("stride_w", "i", 0),
        ("stride_h", "i", 0),
        ("filter_w", "i", 0),
        ("filter_h", "i", 0),
        ("activation", "b", 0),
    ),
    "MEAN": (("keep_dimensions", "b", 0),),
    "MUL": (("activation", "b", 0),),
    "RESIZE_NEAREST_NEIGHBOR": (("align_corners", "b", 0), ("half_pixel_centers", "b", 0)),
}
"""By operator, the fields of its options in their order: name, struct code, default."""


@dataclass(frozen=True, kw_only=True)
class TfLiteTensor:
    """One tensor.

    Attributes:
        name: of the tensor.
        shape: as the file declares it.
        type: such as "int8".
        scales: of the codes; empty where it holds none.
        zero_points: one for each scale.
        axis: that the scales are along, where there are several.
        data: stored bytes; None for a computed tensor or an input.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int
    data: bytes | None


@dataclass(frozen=True, kw_only=True)
class TfLiteOperator:
    """One operator: its name, its tensors by number (-1: left out), its options by name."""

    operator: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int]


@dataclass(kw_only=True)
class TfLiteFile:
    """The contents of a file.

    Attributes:
        description: text for readers.
        tensors: of the first subgraph, by number.
        nodes: its operators, in the file's order.
        inputs: numbers of its inputs.
        outputs: numbers of its outputs.
        inner: the contents of the file other than one plain graph, in words.
        outside: names of tensors whose data are outside the file.
    """

    description: str = ""
    tensors: list[TfLiteTensor] = field(default_factory=list)
    nodes: list[TfLiteOperator] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    inner: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    @property
    def operators(self) -> Counter[str]:
        """How often the graph names each operator."""
        return Counter(node.operator for node in self.nodes)


def read_tflite(model: bytes) -> TfLiteFile:
    """Return what a ``.tflite`` file holds.

    Raises:
        ValueError: the bytes are not such a file, end early, or point outside of themselves.
    """
    if model[4:8] != IDENTIFIER:
        raise ValueError(
            f"it does not begin with the identifier of a .tflite file ({IDENTIFIER.decode()})"
        )
    try:
        return _Reader(model).read()
    except struct.error as error:
        raise ValueError("it ends early") from error


@dataclass(frozen=True)
class _Table:
    """A table within ``data``, at ``place``; ``fields``: the places of its fields, 0 if absent."""

    data: bytes
    place: int
    fields: tuple[int, ...]

    @classmethod
    def at(cls, data: bytes, place: int) -> _Table:
        vtable = place - struct.unpack_from("<i", data, _inside(data, place))[0]
        size, _ = struct.unpack_from("<HH", data, _inside(data, vtable))
        count = max(size - 4, 0) // 2
        offsets = struct.unpack_from(f"<{count}H", data, vtable + 4)
        return cls(data, place, tuple(place + offset if offset else 0 for offset in offsets))

    def _place(self, number: int) -> int:
        return self.fields[number] if number < len(self.fields) else 0

    def has(self, number: int) -> bool:
        return bool(self._place(number))

    def value(self, number: int, kind: str, default: int = 0) -> int:
        place = self._place(number)
        if not place:
            return default
        return int(struct.unpack_from(f"<{kind}", self.data, _inside(self.data, place))[0])

    def _target(self, number: int) -> int:
        place = self._place(number)
        if not place:
            return 0
        (distance,) = struct.unpack_from("<I", self.data, _inside(self.data, place))
        return _inside(self.data, place + distance)

    def table(self, number: int) -> _Table | None:
        target = self._target(number)
        return _Table.at(self.data, target) if target else None

    def raw(self, number: int, item_bytes: int = 1) -> bytes:
        target = self._target(number)
        if not target:
            return b""
        (count,) = struct.unpack_from("<I", self.data, target)
        end = target + 4 + count * item_bytes
        if end > len(self.data):
            raise ValueError("it ends early")
        return self.data[target + 4 : end]

    def text(self, number: int) -> str:
        return self.raw(number).decode("utf-8")

    def numbers(self, number: int, kind: str) -> tuple[int, ...]:
        size = struct.calcsize(f"<{kind}")
        raw = self.raw(number, size)
        return struct.unpack(f"<{len(raw) // size}{kind}", raw)

    def floats(self, number: int) -> tuple[float, ...]:
        raw = self.raw(number, 4)
        return struct.unpack(f"<{len(raw) // 4}f", raw)

    def tables(self, number: int) -> list[_Table]:
        target = self._target(number)
        if not target:
            return []
        (count,) = struct.unpack_from("<I", self.data, target)
        if count > _MOST_ITEMS or target + 4 + 4 * count > len(self.data):
            raise ValueError("it ends early")
        places = range(target + 4, target + 4 + 4 * count, 4)
        return [
            _Table.at(self.data, place + struct.unpack_from("<I", self.data, place)[0])
            for place in places
        ]


def _inside(data: bytes, place: int) -> int:
    if not 0 <= place < len(data):
        raise ValueError("it contains an offset that points outside the file")
    return place


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.found = TfLiteFile()

    def read(self) -> TfLiteFile:
        found = self.found
        (root,) = struct.unpack_from("<I", self.data, 0)
        model = _Table.at(self.data, root)
        found.description = model.text(3)
        graphs = model.tables(2)
        if not graphs:
            raise ValueError("it holds no graph")
        if len(graphs) > 1:
            found.inner.append(f"{len(graphs)} subgraphs")
        if model.tables(8) or model.tables(9):
            found.inner.append("external buffers")
        codes = [self._code(one) for one in model.tables(1)]
        buffers = model.tables(4)
        graph = graphs[0]
        found.tensors = [self._tensor(one, buffers) for one in graph.tables(0)]
        found.inputs, found.outputs = graph.numbers(1, "i"), graph.numbers(2, "i")
        found.nodes = [self._node(one, codes) for one in graph.tables(3)]
        if not found.nodes:
            raise ValueError("its graph has no operators")
        for number in (*found.inputs, *found.outputs):
            self._known(number)
        return found

    def _code(self, code: _Table) -> str:
        if code.has(1):
            return f"custom operator {code.text(1)!r}"
        number = max(code.value(0, "b"), code.value(3, "i"))
        return OPERATORS.get(number, f"operator {number}")

    def _tensor(self, tensor: _Table, buffers: list[_Table]) -> TfLiteTensor:
        name = tensor.text(3)
        index = tensor.value(2, "I")
        if index and index >= len(buffers):
            raise ValueError(f"the tensor {name!r} refers to a missing buffer")
        data: bytes | None = None
        if index:
            buffer = buffers[index]
            if buffer.value(1, "Q") or buffer.value(2, "Q"):
                self.found.outside.append(name)
            data = buffer.raw(0) or None
        if tensor.value(10, "I"):
            self.found.outside.append(name)
        if tensor.value(5, "b") or tensor.has(6) or tensor.tables(9):
            self.found.inner.append(f"the variable or sparse tensor {name!r}")
        quantization = tensor.table(4)
        scales: tuple[float, ...] = ()
        zeros: tuple[int, ...] = ()
        axis = 0
        if quantization is not None:
            if quantization.has(5):
                self.found.inner.append(f"a quantization of its own for {name!r}")
            scales, zeros = quantization.floats(2), quantization.numbers(3, "q")
            axis = quantization.value(6, "i")
        if len(zeros) != len(scales):
            raise ValueError(f"the tensor {name!r} has {len(scales)} scales, {len(zeros)} zeros")
        kind, shape = tensor.value(1, "b"), tensor.numbers(0, "i")
        if any(size < 1 for size in shape) or math.prod(shape) > _MOST_ELEMENTS:
            raise ValueError(f"the tensor {name!r} has the shape {list(shape[:9])}")
        return TfLiteTensor(
            name=name,
            shape=shape,
            type=TYPES.get(kind, f"type {kind}"),
            scales=scales,
            zero_points=zeros,
            axis=axis,
            data=data,
        )

    def _node(self, node: _Table, codes: list[str]) -> TfLiteOperator:
        index = node.value(0, "I")
        if index >= len(codes):
            raise ValueError("an operator refers to a missing operator code")
        operator = codes[index]
        if node.has(5) or node.value(9, "Q") or node.value(11, "B"):
            self.found.inner.append(f"options of its own kind in {operator}")
        options = node.table(4)
        values = {
            name: default if options is None else options.value(number, kind, default)
            for number, (name, kind, default) in enumerate(_OPTIONS.get(operator, ()))
        }
        inputs, outputs = node.numbers(1, "i"), node.numbers(2, "i")
        for place, number in enumerate(inputs):
            if number != -1 or place < 2:  # what may be left out, a bias, comes third
                self._known(number)
        for number in outputs:
            self._known(number)
        return TfLiteOperator(operator=operator, inputs=inputs, outputs=outputs, options=values)

    def _known(self, number: int) -> None:
        if not 0 <= number < len(self.found.tensors):
            raise ValueError("an operator refers to a missing tensor")
