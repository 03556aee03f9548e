"""The operators that an ONNX file names, read without the onnx package.

A device has onnxruntime but not onnx, and onnxruntime does not tell what is in a file. Only the
wire format of Protocol Buffers is read, and of it the few fields on the way to ``op_type``:
ModelProto.graph = 7, GraphProto.node = 1, NodeProto.op_type = 4, NodeProto.domain = 7;
and ModelProto.opset_import = 8, OperatorSetIdProto.domain = 1, which stand behind the graph: a
file cut there can still load elsewhere.

What an exported file names is not what an engine runs: the certificate is about that.

Reference: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections import Counter

from .protobuf import fields, message, text

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
    graphs: list[memoryview] = []
    imported: set[str] = set()
    for number, value in fields(memoryview(model)):
        if number == _GRAPH:
            graphs.append(message(value))
        elif number == _OPSET_IMPORT:
            imported.add(_domain(message(value), _OPSET_DOMAIN))
    if not graphs:
        raise ValueError("it holds no graph")
    for graph in graphs:
        for number, node in fields(graph):
            if number == _NODE:
                operators[_operator(message(node))] += 1
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
    for number, value in fields(node):
        if number == _OP_TYPE:
            name = text(value)
    if not name or "." in name:
        raise ValueError("a node has no operator")
    domain = _domain(node, _DOMAIN)
    return f"{domain}.{name}" if domain else name


def _domain(owner: memoryview, field: int) -> str:
    domain = ""
    for number, value in fields(owner):
        if number == field:
            domain = text(value)
    return "" if domain == "ai.onnx" else domain  # two names of the standard domain
