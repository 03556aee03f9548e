"""Check an ONNX file before a TensorRT parser reads it, without the onnx package.

TensorRT's parser reads a uint8 zero point as int8 and reports it only in its log: codes above 127
would saturate and the network would still run. So every quantizer must have a stored int8 zero
point of 0, no tensor may be unsigned, and no subgraph, function or other file may hold a part.

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
from dataclasses import dataclass

from ..core.errors import InputError
from ..core.files import sha256_of_bytes
from ..core.images import GREY_OR_RGB
from ..core.onnx_operators import operators_of
from ..core.protobuf import fields, message, number, text

IMAGES, LOGITS = "images", "logits"

_FLOAT, _UINT8, _INT8, _UINT16, _UINT4, _UINT2 = 1, 2, 3, 4, 21, 25
_UNSIGNED = {_UINT8: "uint8", _UINT16: "uint16", _UINT4: "uint4", _UINT2: "uint2"}
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_TYPE_ATTRIBUTES = ("to", "output_dtype")


@dataclass(frozen=True, kw_only=True)
class OnnxFacts:
    """The facts that a file of the target ``tensorrt`` states.

    Attributes:
        sha256: of its bytes.
        input_shape: (3, H, W) of the images, which it takes as int8, byte - 128.
        batch_size: N if the file fixes it, else None.
        classes: number of logits per image.
        operators: number of nodes of each operator.
    """

    sha256: str
    input_shape: tuple[int, int, int]
    batch_size: int | None
    classes: int
    operators: Counter[str]


def check_symmetric_int8(data: bytes, where: str) -> OnnxFacts:
    """Check that a file is for TensorRT and return the facts that it states.

    Args:
        data: the file's bytes.
        where: its name, for errors.

    Raises:
        InputError: not an ONNX file; an unsigned tensor; a quantizer whose zero point is not a
            stored int8 of 0; a subgraph, function or external data; other images or logits than
            int8 N×3×H×W and float32 N×C.
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
            f"{where} ({len(data)} bytes) is not a readable ONNX file: {error}; export or copy it "
            "again"
        ) from error
    raise InputError(
        f"{where}: {problem}; TensorRT takes only symmetric int8; qadtr export --target tensorrt "
        "writes such a file"
    )


class _Message:
    """The fields of a message, by number.

    As defined by Protocol Buffers, the last one counts of a value that is given twice, and a
    message that is given twice is parsed from the joined bytes.
    """

    def __init__(self, view: memoryview) -> None:
        self._fields: dict[int, list[int | memoryview | None]] = {}
        for field, value in fields(view):
            self._fields.setdefault(field, []).append(value)

    def __contains__(self, field: int) -> bool:
        return field in self._fields

    def values(self, field: int) -> list[int | memoryview | None]:
        return self._fields.get(field, [])

    def text(self, field: int) -> str:
        return text(self.values(field)[-1]) if field in self else ""

    def number(self, field: int) -> int:
        return number(self.values(field)[-1]) if field in self else 0

    def one(self, field: int) -> _Message:
        return _Message(memoryview(b"".join(map(message, self.values(field)))))

    def each(self, field: int) -> list[_Message]:
        return [_Message(message(value)) for value in self.values(field)]


class _Graph:
    """The main graph of a file, as far as the checks need it."""

    def __init__(self, data: bytes) -> None:
        model = _Message(memoryview(data))
        graph = model.one(7)
        self.functions = 25 in model
        self.nodes = graph.each(1)
        self.stored = {tensor.text(8): tensor for tensor in graph.each(5)}
        self.inputs, self.outputs, self.values = (
            [_value_info(value) for value in graph.each(field)] for field in (11, 12, 13)
        )

    def problem(self) -> str | None:
        """The first thing that TensorRT would misread, as a sentence; None if there is none."""
        if self.functions:
            return "it defines functions, whose nodes are not checked"
        for name, stored in self.stored.items():
            if _is_external(stored):
                return f"the stored tensor {name!r} lies in another file"
            if stored.number(2) in _UNSIGNED:
                return f"the stored tensor {name!r} is {_UNSIGNED[stored.number(2)]}"
        for name, kind, _ in (*self.inputs, *self.outputs, *self.values):
            if kind in _UNSIGNED:
                return f"the tensor {name!r} is {_UNSIGNED[kind]}"
        return next(filter(None, map(self._node_problem, self.nodes)), None)

    def _node_problem(self, node: _Message) -> str | None:
        name, operator = node.text(3), node.text(4)
        problem = next(filter(None, map(_attribute_problem, node.each(5))), None)
        if problem is not None:
            return f"a node {operator or name!r} {problem}"
        if operator not in _QUANTIZERS:
            return None
        label = f"{operator} {name!r}"
        inputs = [text(value) for value in node.values(1)]
        if len(inputs) < 3 or not inputs[2]:
            return f"{label} has no zero point, which means uint8 by ONNX's default"
        zero = self.stored.get(inputs[2])
        if zero is None or zero.number(2) != _INT8:
            return f"the zero point of {label} is not a stored int8"
        codes = [byte for raw in zero.values(9) for byte in message(raw)]
        for value in zero.values(5):  # packed or not; in both forms only 0 has no bits set
            codes += value if isinstance(value, memoryview) else [number(value)]
        if not codes or any(codes):
            return f"the zero point of {label} is not 0"
        return None

    def interface(self) -> tuple[int | None, tuple[int, int, int], int]:
        """Batch size, shape of the images and classes, as in :class:`OnnxFacts`."""
        given = [value for value in self.inputs if value[0] not in self.stored]
        kinds = [[value[:2] for value in values] for values in (given, self.outputs)]
        if kinds == [[(IMAGES, _INT8)], [(LOGITS, _FLOAT)]]:
            shape, logits = given[0][2], self.outputs[0][2]
            fixed = len(shape) == 4 and shape[1] in GREY_OR_RGB and all(shape[1:])
            if fixed and len(logits) == 2 and logits[1]:
                return shape[0] or None, (shape[1], shape[2], shape[3]), logits[1]
        found = ", ".join(f"{name!r} {dims}" for name, _, dims in (*given, *self.outputs))
        raise ValueError(
            f"its inputs and outputs are {found or 'none'}; expected '{IMAGES}' int8 N×3×H×W and "
            f"'{LOGITS}' float32 N×C with numbers for H, W and C"
        )


def _is_external(tensor: _Message) -> bool:
    return 13 in tensor or tensor.number(14) != 0


def _attribute_problem(attribute: _Message) -> str | None:
    if attribute.text(1) in _TYPE_ATTRIBUTES and attribute.number(3) in _UNSIGNED:
        return f"gives {_UNSIGNED[attribute.number(3)]}"
    if 6 in attribute or 11 in attribute:
        return "has a subgraph, which is not checked"
    tensor = attribute.one(5)
    if _is_external(tensor):
        return "holds a tensor that lies in another file"
    if tensor.number(2) in _UNSIGNED:
        return f"holds a tensor of {_UNSIGNED[tensor.number(2)]}"
    return None


def _value_info(value: _Message) -> tuple[str, int, list[int]]:
    """Name, element type (0: not stated) and dimensions (0: not a number) of a tensor."""
    tensor = value.one(2).one(1)
    return value.text(1), tensor.number(1), [dim.number(1) for dim in tensor.one(2).each(1)]
