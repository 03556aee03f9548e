"""An indexed ONNX graph: the producer and the readers of each tensor, stored and declared tensors.

This is the only graph view of the package: the lowering, the guarantees, the references and the
certificate all use it (docs/decisions/onnx-ir.md says why it is not onnx-ir).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from deploy.core.errors import InputError


class Wired(Protocol):
    """A node that names its input and output tensors; an empty name is an omitted one."""

    @property
    def input(self) -> Iterable[str]:
        """Names of the tensors that it reads."""

    @property
    def output(self) -> Iterable[str]:
        """Names of the tensors that it outputs."""


Node = TypeVar("Node", bound=Wired)


class Wiring(Generic[Node]):
    """Nodes in their order, and the tensors between them."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = tuple(nodes)
        self._producers = {name: node for node in self.nodes for name in node.output if name}
        self._readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)

    def producer(self, tensor: str) -> Node | None:
        """The node that outputs a tensor; None for inputs and stored tensors."""
        return self._producers.get(tensor)

    def readers(self, tensor: str) -> list[Node]:
        """The nodes that read a tensor, in order."""
        return self._readers.get(tensor, [])


class Graph(Wiring[onnx.NodeProto]):
    """The graph of one model that :func:`export.reading.read_model` returned.

    Attributes:
        model: the model itself.
        constants: stored tensors by name, each in its own dtype (INT2 and INT4 unpacked).
        inputs: those that a caller must feed; older exporters also list stored tensors.
        outputs: as the file lists them.
        shapes: as declared, by tensor; 0 for an open dimension.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        super().__init__(graph.node)
        self.model = model
        self.constants: dict[str, NDArray[Any]] = dict(initializers(model))
        self.inputs = graph_inputs(model)
        self.outputs = list(graph.output)
        self.shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.value_info, *graph.input, *graph.output)
        }


def initializers(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """The graph's stored tensors by name, each in its own dtype.

    INT4, UINT4, INT2 and UINT2 come as arrays of the ``ml_dtypes`` type of that name, one element
    per value (unpacked).

    Raises:
        InputError: a stored tensor cannot be read as an array.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    for tensor in model.graph.initializer:
        try:
            arrays[tensor.name] = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"initializer {tensor.name!r} ({type_name(tensor.data_type)}"
                f"{list(tensor.dims)}) cannot be read as an array: {error}"
            ) from error
    return arrays


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must feed: those that are not also initializers."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def input_dims(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """An input's declared shape; None for a symbolic or missing dimension."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else None
        for dim in value.type.tensor_type.shape.dim
    )


def fix_inputs(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Set the shapes of inputs, in place. The declared shapes of later tensors are removed, so that
    they follow from the operators."""
    del model.graph.value_info[:]
    for value in model.graph.input:
        if value.name in shapes:
            dims = value.type.tensor_type.shape.dim
            del dims[:]
            for length in shapes[value.name]:
                dims.add().dim_value = length
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as plain values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def node_label(node: onnx.NodeProto) -> str:
    """The name of a node in errors: its name, or else its first output, and its operator."""
    name = node.name or (node.output[0] if node.output else "")
    return f"{name!r} ({node.op_type})"


def type_name(data_type: int) -> str:
    """The lower-case ONNX name of an element type number, such as ``uint8`` for 2."""
    try:
        return str(onnx.TensorProto.DataType.Name(data_type)).lower()
    except ValueError:
        return f"type {data_type}"


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and all subgraphs in the attributes of its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs_of(inner)


def fresh_name(wanted: str, taken: set[str]) -> str:
    """``wanted``, with underscores appended until it is not taken; it is taken from then on."""
    while wanted in taken:
        wanted += "_"
    taken.add(wanted)
    return wanted
