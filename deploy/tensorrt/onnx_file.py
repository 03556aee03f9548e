"""What an ONNX file must be before a TensorRT parser sees it, read without the onnx package.

TensorRT's parser takes a uint8 zero point for an int8 one and says so in a log line only: codes
above 127 would saturate and the network would still run. So every quantizer here has a stored int8
zero point of 0, nothing is unsigned, and nothing hides in a subgraph, a function or another file.

Fields of onnx.proto that are read: ModelProto.graph = 7, .functions = 25; GraphProto.node = 1,
.initializer = 5, .input = 11, .output = 12, .value_info = 13; NodeProto.input = 1, .name = 3,
.op_type = 4, .attribute = 5; AttributeProto.name = 1, .i = 3, .t = 5, .g = 6, .graphs = 11;
TensorProto.data_type = 2, .int32_data = 5, .name = 8, .raw_data = 9, .external_data = 13,
.data_location = 14; ValueInfoProto.name = 1, .type = 2; TypeProto.tensor_type = 1; its
.elem_type = 1, .shape = 2; TensorShapeProto.dim = 1, its .dim_value = 1.

Reference: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..core.errors import InputError
from ..core.files import sha256_of_bytes
from ..core.images import GREY_OR_RGB
from ..core.onnx_operators import operators_of
from ..core.protobuf import fields, message, number, text, varint

IMAGES, LOGITS = "images", "logits"

_FLOAT, _UINT8, _INT8, _UINT16, _UINT4, _UINT2 = 1, 2, 3, 4, 21, 25
_UNSIGNED = {_UINT8: "uint8", _UINT16: "uint16", _UINT4: "uint4", _UINT2: "uint2"}
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_TYPE_ATTRIBUTES = ("to", "output_dtype")


@dataclass(frozen=True, kw_only=True)
class OnnxFacts:
    """What a file of the target ``tensorrt`` says of itself.

    Attributes:
        sha256: of its bytes.
        input_shape: (3, H, W) of the images, which it takes as int8, byte - 128.
        batch_size: N where the file fixes it, else None.
        classes: number of logits per image.
        operators: how often it names each operator.
    """

    sha256: str
    input_shape: tuple[int, int, int]
    batch_size: int | None
    classes: int
    operators: Counter[str]


def check_symmetric_int8(data: bytes, where: str) -> OnnxFacts:
    """Check that a file is for TensorRT and return what it says of itself.

    Args:
        data: the file's bytes.
        where: its name, for errors.

    Raises:
        InputError: no ONNX file; an unsigned tensor; a quantizer whose zero point is not a stored
            int8 of 0; a subgraph, function or external data; other images or logits than int8
            N×3×H×W and float32 N×C.
    """
    try:
        operators = operators_of(data)
        graph = _Graph(data)
        problem = graph.problem()
        if problem is None:
            batch_size, input_shape, classes = graph.interface()
            return OnnxFacts(
                sha256=sha256_of_bytes(data),
                input_shape=input_shape,
                batch_size=batch_size,
                classes=classes,
                operators=operators,
            )
    except ValueError as error:
        raise InputError(
            f"{where} ({len(data)} bytes) is no readable ONNX file: {error}; export or copy it "
            "again"
        ) from error
    raise InputError(
        f"{where}: {problem}; TensorRT takes symmetric int8 alone: qadtr export --target tensorrt "
        "writes such a file"
    )


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """An initializer: its type, its int8 values where it has that type, and where they lie."""

    kind: int
    values: bytes
    external: bool


class _Graph:
    """The parts of a file's main graph that the checks need."""

    def __init__(self, data: bytes) -> None:
        self.functions = False
        self.nodes: list[memoryview] = []
        self.stored: dict[str, _Stored] = {}
        self.inputs: list[memoryview] = []
        self.outputs: list[memoryview] = []
        self.values: list[memoryview] = []
        lists = {1: self.nodes, 11: self.inputs, 12: self.outputs, 13: self.values}
        for field, value in fields(memoryview(data)):
            self.functions |= field == 25
            if field != 7:
                continue
            for part, content in fields(message(value)):
                if part == 5:
                    name, stored = _tensor(message(content))
                    self.stored[name] = stored
                elif part in lists:
                    lists[part].append(message(content))

    def problem(self) -> str | None:
        """The first thing that TensorRT would misread, as a sentence; None where there is none."""
        if self.functions:
            return "it defines functions, whose nodes are not looked into"
        for name, stored in self.stored.items():
            if stored.external:
                return f"the stored tensor {name!r} lies in another file"
            if stored.kind in _UNSIGNED:
                return f"the stored tensor {name!r} is {_UNSIGNED[stored.kind]}"
        for value in (*self.inputs, *self.outputs, *self.values):
            name, kind, _ = _value_info(value)
            if kind in _UNSIGNED:
                return f"the tensor {name!r} is {_UNSIGNED[kind]}"
        problems = (self._node_problem(node) for node in self.nodes)
        return next((problem for problem in problems if problem is not None), None)

    def _node_problem(self, node: memoryview) -> str | None:
        inputs, name, operator = [], "", ""
        for field, value in fields(node):
            if field == 1:
                inputs.append(text(value))
            elif field == 3:
                name = text(value)
            elif field == 4:
                operator = text(value)
            elif field == 5:
                kind = _attribute_problem(message(value))
                if kind is not None:
                    return f"a node {operator or name!r} {kind}"
        if operator not in _QUANTIZERS:
            return None
        label = f"{operator} {name!r}"
        if len(inputs) < 3 or not inputs[2]:
            return f"{label} has no zero point, which means uint8 by ONNX's default"
        zero = self.stored.get(inputs[2])
        if zero is None or zero.kind != _INT8:
            return f"the zero point of {label} is not a stored int8"
        if not zero.values or any(zero.values):
            return f"the zero point of {label} is not 0"
        return None

    def interface(self) -> tuple[int | None, tuple[int, int, int], int]:
        """Batch size, shape of the images and classes, as :class:`OnnxFacts` has them."""
        inputs = [one for one in map(_value_info, self.inputs) if one[0] not in self.stored]
        outputs = [_value_info(one) for one in self.outputs]
        if [(name, kind) for name, kind, _ in inputs] == [(IMAGES, _INT8)] and [
            (name, kind) for name, kind, _ in outputs
        ] == [(LOGITS, _FLOAT)]:
            shape, logits = inputs[0][2], outputs[0][2]
            fixed = len(shape) == 4 and shape[1] in GREY_OR_RGB and all(shape[1:])
            if fixed and len(logits) == 2 and logits[1]:
                return shape[0] or None, (shape[1], shape[2], shape[3]), logits[1]
        found = ", ".join(f"{name!r} {dims}" for name, _, dims in (*inputs, *outputs))
        raise ValueError(
            f"its inputs and outputs are {found or 'none'}; expected '{IMAGES}' int8 N×3×H×W and "
            f"'{LOGITS}' float32 N×C with numbers for H, W and C"
        )


def _tensor(tensor: memoryview) -> tuple[str, _Stored]:
    name, kind, raw, external = "", 0, b"", False
    listed = bytearray()
    for field, value in fields(tensor):
        if field == 2:
            kind = number(value)
        elif field == 8:
            name = text(value)
        elif field == 9:
            raw = bytes(message(value)[:_ZERO_POINTS])
        elif field == 13 or (field == 14 and value != 0):
            external = True
        elif field == 5:  # int32_data, packed or one by one; only whether all are 0 matters
            packed = _packed(value) if isinstance(value, memoryview) else (number(value),)
            for one, _ in zip(packed, range(_ZERO_POINTS), strict=False):
                listed.append(1 if one else 0)
    return name, _Stored(kind=kind, values=raw or bytes(listed), external=external)


_ZERO_POINTS = 1 << 16
"""Values, at most, that are read of a stored tensor: no layer has more output channels."""


def _packed(values: memoryview) -> Iterator[int]:
    position = 0
    while position < len(values):
        value, position = varint(values, position)
        yield value


def _attribute_problem(attribute: memoryview) -> str | None:
    name, problem, kind = "", None, 0
    for field, value in fields(attribute):
        if field == 1:
            name = text(value)
        elif field == 3:
            kind = number(value)
        elif field == 5:
            stored = _tensor(message(value))[1]
            if stored.external:
                problem = "holds a tensor that lies in another file"
            elif stored.kind in _UNSIGNED:
                problem = f"holds a tensor of {_UNSIGNED[stored.kind]}"
        elif field in (6, 11):
            problem = "has a subgraph, which is not looked into"
    if name in _TYPE_ATTRIBUTES and kind in _UNSIGNED:
        return f"gives {_UNSIGNED[kind]}"
    return problem


def _value_info(value: memoryview) -> tuple[str, int, list[int]]:
    """Name, element type (0: not told) and dimensions (0: not a number) of a tensor."""
    name, kind, dims = "", 0, []
    for field, content in fields(value):
        if field == 1:
            name = text(content)
        elif field == 2:
            for of_type, tensor in fields(message(content)):
                if of_type != 1:
                    continue
                for part, inner in fields(message(tensor)):
                    if part == 1:
                        kind = number(inner)
                    elif part == 2:
                        dims = [
                            _dimension(message(dim))
                            for of, dim in fields(message(inner))
                            if of == 1
                        ]
    return name, kind, dims


def _dimension(dim: memoryview) -> int:
    for field, value in fields(dim):
        if field == 1:
            return number(value)
    return 0
