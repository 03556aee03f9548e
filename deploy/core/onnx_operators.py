"""The contents of an ONNX file, read without the onnx package: nodes, and data outside its bytes.

A device has onnxruntime but not onnx, and onnxruntime does not report the contents of a file. Only
the wire format of Protocol Buffers is read, and only the fields that lead to operators and tensors:
those of the main graph, of the graphs and tensors in attributes, of functions and of training
information. Protocol Buffers merges a message that occurs twice, so every occurrence counts.

The operators that a file names are not those that an engine runs: the certificate covers the
latter.

Reference: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from . import protobuf
from .protobuf import message, text

# Numbers of fields, by message.
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSETS = 1, 7, 8
_MODEL_TRAINING, _MODEL_FUNCTIONS = 20, 25
_OPSET_DOMAIN = 1
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE = 1, 5, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TEXT, _ATTRIBUTE_FLOATS = 1, 3, 4, (2, 7)
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_FUNCTION_NODE, _FUNCTION_ATTRIBUTE = 7, 11
_TRAINING_GRAPHS = (1, 2)
_SPARSE_TENSORS = (1, 2)
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_ENTRIES, _TENSOR_LOCATION = 2, 8, 13, 14

_MOST_FIELDS = 4_000_000
_MOST_DEPTH = 16
_ORT_FORMAT = b"ORTM"

_INTEGER_OPERATORS = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QGemm"}
)


@dataclass(frozen=True, kw_only=True)
class OnnxNode:
    """A node of the main graph.

    Attributes:
        operator: its name, with its domain where that is not the standard one:
            "com.microsoft.QLinearAdd".
        inputs: names of tensors.
        outputs: names of tensors.
        cast_to: the element type that its attribute ``to`` names; None without one.
        mode: its attribute ``mode``; None without one.
        floats: names of its attributes that hold floating-point numbers.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cast_to: int | None
    mode: str | None = None
    floats: tuple[str, ...] = ()


@dataclass(kw_only=True)
class OnnxFile:
    """The contents of a file.

    Attributes:
        nodes: of the main graph, in the file's order.
        inner: places of nodes outside of the main graph, such as "a graph in an attribute of If".
        outside: names of tensors whose data are outside the file.
        domains: of the operator sets that it imports, "" the standard one.
        tensors: name and ONNX's element type of all tensors stored in it.
        ir_version: of the format, 0 where the file has none.
    """

    nodes: list[OnnxNode] = field(default_factory=list)
    inner: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    tensors: set[tuple[str, int]] = field(default_factory=set)
    ir_version: int = 0

    @property
    def operators(self) -> Counter[str]:
        """How often the main graph names each operator."""
        return Counter(node.operator for node in self.nodes)

    @property
    def stored(self) -> set[int]:
        """ONNX's element types of the stored tensors."""
        return {element for _, element in self.tensors}

    @property
    def out_of_order(self) -> list[str]:
        """Tensors of the main graph that a node reads before another node outputs them."""
        given = {name for node in self.nodes for name in node.outputs if name}
        known: set[str] = set()
        found = []
        for node in self.nodes:
            found += [name for name in node.inputs if name in given and name not in known]
            known.update(node.outputs)
        return found

    def computed_from(self, tensor: str) -> list[OnnxNode]:
        """The nodes of the main graph that depend on a tensor."""
        known, found = {tensor}, []
        for node in self.nodes:
            if known.intersection(node.inputs):
                known.update(node.outputs)
                found.append(node)
        return found


def read_onnx(model: bytes) -> OnnxFile:
    """Return what an ONNX file holds.

    Raises:
        ValueError: the bytes are not an ONNX file, end early, nest graphs too deeply, have more
            fields than any useful file, or use a domain that they do not import.
    """
    if model[4:8] == _ORT_FORMAT:
        raise ValueError("it is in ONNX Runtime's own format")  # which would be tried first
    return _Reader().read(memoryview(model))


def operators_of(model: bytes) -> Counter[str]:
    """Return how often the main graph of an ONNX file names each operator; errors as
    :func:`read_onnx`."""
    return read_onnx(model).operators


def asks_for_integers(operators: Counter[str]) -> bool:
    """Return whether a file with these operators promises integer inference."""
    names = {name.rpartition(".")[2] for name in operators}
    return any(name in _INTEGER_OPERATORS or name.startswith("QLinear") for name in names)


class _Attribute(NamedTuple):
    name: str
    whole: int | None
    text: str | None
    is_float: bool


class _Reader:
    def __init__(self) -> None:
        self.found = OnnxFile()
        self._left = _MOST_FIELDS

    def read(self, model: memoryview) -> OnnxFile:
        graphs = 0
        for number, value in self._fields(model):
            if number == _MODEL_IR_VERSION:
                self.found.ir_version = protobuf.number(value)
            elif number == _MODEL_GRAPH:
                graphs += 1
                self._graph(message(value), "", 0)
            elif number == _MODEL_OPSETS:
                self.found.domains.add(self._domain(message(value), _OPSET_DOMAIN))
            elif number == _MODEL_FUNCTIONS:
                self.found.inner.append("a function")
                for part, item in self._fields(message(value)):
                    if part == _FUNCTION_NODE:
                        self._node(message(item), "a function", 1)
                    elif part == _FUNCTION_ATTRIBUTE:
                        self._attribute(message(item), "a function", 1)
            elif number == _MODEL_TRAINING:
                for part, item in self._fields(message(value)):
                    if part in _TRAINING_GRAPHS:
                        self._graph(message(item), "training information", 1)
        if not graphs:
            raise ValueError("it holds no graph")
        if not self.found.nodes:
            raise ValueError("its graph has no nodes")
        used = {name.rpartition(".")[0] for name in self.found.operators}
        missing = ", ".join(repr(domain) for domain in sorted(used - self.found.domains))
        if missing:
            raise ValueError(f"it imports no operator set of the domain {missing}")
        return self.found

    def _fields(self, view: memoryview) -> Iterator[tuple[int, int | memoryview | None]]:
        for item in protobuf.fields(view):
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"it has more than {_MOST_FIELDS} fields")
            yield item

    def _graph(self, graph: memoryview, place: str, depth: int) -> None:
        if depth > _MOST_DEPTH:
            raise ValueError(f"its graphs are nested more than {_MOST_DEPTH} deep")
        if place:
            self.found.inner.append(place)
        for number, value in self._fields(graph):
            if number == _GRAPH_NODE:
                self._node(message(value), place, depth)
            elif number == _GRAPH_TENSOR:
                self._tensor(message(value))
            elif number == _GRAPH_SPARSE:
                self._sparse(message(value))

    def _node(self, node: memoryview, place: str, depth: int) -> None:
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: list[memoryview] = []
        operator = domain = ""
        for number, value in self._fields(node):
            if number == _NODE_INPUT:
                inputs.append(text(value))
            elif number == _NODE_OUTPUT:
                outputs.append(text(value))
            elif number == _NODE_OPERATOR:
                operator = text(value)
            elif number == _NODE_DOMAIN:
                domain = _standard(text(value))
            elif number == _NODE_ATTRIBUTE:
                attributes.append(message(value))
        if not operator or "." in operator:
            raise ValueError("a node has no operator")
        name = f"{domain}.{operator}" if domain else operator
        read = [self._attribute(one, f"an attribute of {name}", depth) for one in attributes]
        named = {one.name: one for one in read}
        if len(named) != len(read):
            raise ValueError(f"a node {name} has the same attribute twice")
        if not place:
            to, mode = named.get("to"), named.get("mode")
            self.found.nodes.append(
                OnnxNode(
                    operator=name,
                    inputs=tuple(inputs),
                    outputs=tuple(outputs),
                    cast_to=None if to is None else to.whole,
                    mode=None if mode is None else mode.text,
                    floats=tuple(one.name for one in read if one.is_float),
                )
            )

    def _attribute(self, attribute: memoryview, place: str, depth: int) -> _Attribute:
        name, whole, words, is_float = "", None, None, False
        for number, value in self._fields(attribute):
            if number == _ATTRIBUTE_NAME:
                name = text(value)
            elif number == _ATTRIBUTE_INT:
                whole = protobuf.number(value)
            elif number == _ATTRIBUTE_TEXT:
                words = str(message(value), "utf-8", "replace")
            elif number in _ATTRIBUTE_FLOATS:
                is_float = True
            elif number in _ATTRIBUTE_TENSORS:
                self._tensor(message(value))
            elif number in _ATTRIBUTE_SPARSE:
                self._sparse(message(value))
            elif number in _ATTRIBUTE_GRAPHS:
                self._graph(message(value), f"a graph in {place}", depth + 1)
        return _Attribute(name, whole, words, is_float)

    def _sparse(self, tensor: memoryview) -> None:
        for number, value in self._fields(tensor):
            if number in _SPARSE_TENSORS:
                self._tensor(message(value))

    def _tensor(self, tensor: memoryview) -> None:
        name, outside = "without a name", False
        types: list[int] = []  # the last one holds, and a merged message has several
        for number, value in self._fields(tensor):
            if number == _TENSOR_TYPE:
                types.append(protobuf.number(value))
            elif number == _TENSOR_NAME:
                name = text(value)
            elif number == _TENSOR_ENTRIES:
                outside = True
            elif number == _TENSOR_LOCATION:
                outside |= protobuf.number(value) != 0
        self.found.tensors.update((name, element) for element in types)
        if outside:
            self.found.outside.append(name)

    def _domain(self, owner: memoryview, number: int) -> str:
        domain = ""
        for found, value in self._fields(owner):
            if found == number:
                domain = text(value)
        return _standard(domain)


def _standard(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain  # two names of the standard domain
