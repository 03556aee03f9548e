"""The operators that an ONNX file names, read without the onnx package.

A device has onnxruntime but not onnx, and onnxruntime does not tell what is in a file. Only the
wire format of Protocol Buffers is read, and of it the few fields on the way to ``op_type``:
ModelProto.graph = 7, GraphProto.node = 1, NodeProto.op_type = 4, NodeProto.domain = 7;
and ModelProto.opset_import = 8, OperatorSetIdProto.domain = 1, which stand behind the graph: a
file cut there can still load elsewhere.

What an exported file names is not what an engine runs: the certificate is about that.

Reference: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_GRAPH, _NODE, _OP_TYPE, _DOMAIN = 7, 1, 4, 7
_OPSET_IMPORT, _OPSET_DOMAIN = 8, 1

_INTEGER_OPERATORS = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QGemm"}
)


def operators_of(model: bytes) -> Counter[str]:
    """Return how often the main graph of an ONNX file names each operator.

    Operators outside the standard domain carry theirs: "com.microsoft.QLinearAdd".

    Raises:
        ValueError: the bytes are no ONNX file, end early, or use a domain that they do not import.
    """
    operators: Counter[str] = Counter()
    graphs: list[memoryview | None] = []
    imported: set[str] = set()
    for number, value in _fields(memoryview(model)):
        if number == _GRAPH:
            graphs.append(value)
        elif number == _OPSET_IMPORT:
            imported.add(_domain(_message(value), _OPSET_DOMAIN))
    if not graphs:
        raise ValueError("it holds no graph")
    for graph in graphs:
        for number, node in _fields(_message(graph)):
            if number == _NODE:
                operators[_operator(_message(node))] += 1
    if not operators:
        raise ValueError("its graph has no nodes")
    missing = sorted({name.rpartition(".")[0] for name in operators} - imported)
    if missing:
        named = ", ".join(repr(domain) for domain in missing)
        raise ValueError(f"it imports no operator set of the domain {named}")
    return operators


def asks_for_integers(operators: Counter[str]) -> bool:
    """Return whether a file with these operators promises integer inference."""
    names = {name.rpartition(".")[2] for name in operators}
    return any(name in _INTEGER_OPERATORS or name.startswith("QLinear") for name in names)


def _operator(node: memoryview) -> str:
    name = ""
    for number, value in _fields(node):
        if number == _OP_TYPE:
            name = str(_message(value), "utf-8")
    if not name or "." in name:
        raise ValueError("a node has no operator")
    domain = _domain(node, _DOMAIN)
    return f"{domain}.{name}" if domain else name


def _domain(message: memoryview, field: int) -> str:
    domain = ""
    for number, value in _fields(message):
        if number == field:
            domain = str(_message(value), "utf-8")
    return "" if domain == "ai.onnx" else domain  # two names of the standard domain


def _message(value: memoryview | None) -> memoryview:
    if value is None:
        raise ValueError("a field has another type than ONNX gives it")
    return value


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Yield the number of each field, and its bytes if it is length-delimited."""
    position = 0
    while position < len(view):
        key, position = _varint(view, position)
        number, wire_type = key >> 3, key & 7
        value: memoryview | None = None
        if wire_type == _VARINT:
            _, position = _varint(view, position)
        elif wire_type == _LENGTH:
            length, start = _varint(view, position)
            position = start + length
            value = view[start:position]
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"it is no Protocol Buffers message (wire type {wire_type})")
        if number == 0:
            raise ValueError("it is no Protocol Buffers message (field 0)")
        if position > len(view):
            raise ValueError("it ends early")
        yield number, value


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise ValueError("it ends early")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it is no Protocol Buffers message (a number of more than 10 bytes)")
