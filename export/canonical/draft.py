"""A graph that is being rewritten, and the folding of tensors computed from stored tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import InputError
from export.graph import Graph, Wiring, attributes_of, fresh_name, node_label

MOST_FOLDED = 2**26
"""Largest size of one folded tensor, so that a damaged file cannot exhaust memory."""


class Draft:
    """One graph with one input and one output, to be rewritten node by node.

    Attributes:
        path: of the file, for errors.
        opset: of ONNX's own operators.
        nodes: in topological order.
        constants: stored tensors by name.
        shapes: of tensors, N×…; absent where unknown, 0 for an open side.
        image: name of the input.
        image_type: its element type.
        output: name of the output.
        notes: what was left out of the file, a line each.
    """

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        graph = Graph(model)
        for what, found in (("input", graph.inputs), ("output", graph.outputs)):
            if len(found) != 1:
                names = ", ".join(value.name for value in found) or "none"
                raise InputError(f"{path}: expected one {what}, found {names}")
        self.path, self._model = path, model
        self.opset = max(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
        self.nodes = list(graph.nodes)
        self.constants = graph.constants
        self.shapes = {name: shape for name, shape in graph.shapes.items() if shape}
        self.image, self.output = graph.inputs[0].name, graph.outputs[0].name
        self.image_type = graph.inputs[0].type.tensor_type.elem_type
        self.notes: list[str] = []
        self._taken = {n for node in self.nodes for n in (*node.input, *node.output)}
        self._taken |= set(self.constants)

    @property
    def wiring(self) -> Wiring[onnx.NodeProto]:
        """The nodes as they are now, indexed."""
        return Wiring(self.nodes)

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that outputs a tensor now."""
        return next((node for node in self.nodes if tensor in node.output), None)

    def name(self, wanted: str) -> str:
        """A tensor name that is not in use."""
        return fresh_name(wanted, self._taken)

    def constant(self, value: NDArray[Any] | np.generic, wanted: str) -> str:
        """The name of a new stored tensor."""
        name = self.name(wanted)
        self.constants[name] = np.asarray(value)
        return name

    def rename(self, old: str, new: str) -> None:
        """Replace a tensor by another one for every reader, and as the output."""
        for node in self.nodes:
            if old in node.input:
                node.input[:] = [new if name == old else name for name in node.input]
        if self.output == old:
            self.output = new

    def replace(self, node: onnx.NodeProto, *others: onnx.NodeProto) -> None:
        """Replace one node by others."""
        index = next(i for i, one in enumerate(self.nodes) if one is node)
        self.nodes[index : index + 1] = others

    def live(self) -> None:
        """Drop the nodes that the output does not depend on."""
        wanted, kept = {self.output}, []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]

    def fold(self) -> bool:
        """Fold tensors computed only from stored tensors into stored tensors, except quantizers;
        returns whether there were any.

        Raises:
            InputError: a stored tensor does not hold numbers.
        """
        kept, any_folded = [], False
        for node in self.nodes:
            value = self._folded(node)
            if value is None:
                kept.append(node)
            else:
                self.constants[node.output[0]] = value
                any_folded = True
        self.nodes = kept
        return any_folded

    def _folded(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        attributes = attributes_of(node)
        if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            return None
        if node.op_type == "Constant":
            return self._constant_node(node, attributes)
        if node.op_type == "Shape" and node.input[0] not in self.constants:
            shape = self.shapes.get(node.input[0], ())
            ends = slice(attributes.get("start", 0), attributes.get("end"))
            return np.array(shape, np.int64)[ends] if shape and all(shape) else None
        function = _FUNCTIONS.get(node.op_type)
        if function is None or any(name and name not in self.constants for name in node.input):
            return None
        inputs = [self.constants[name] if name else None for name in node.input]
        count = _count(node.op_type, attributes, inputs)
        if count > MOST_FOLDED:
            raise InputError(
                f"{self.path}: node {node_label(node)} computes {count:,} stored values, but at "
                f"most {MOST_FOLDED:,} are allowed: the file is damaged"
            )
        with np.errstate(all="ignore"):
            return np.asarray(function(attributes, *inputs))

    def _constant_node(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> NDArray[Any]:
        for key, dtype in (
            ("value_float", np.float32),
            ("value_floats", np.float32),
            ("value_int", np.int64),
            ("value_ints", np.int64),
        ):
            if key in attributes:
                return np.asarray(attributes[key], dtype)
        if "value" not in attributes:
            raise InputError(
                f"{self.path}: node {node_label(node)} must store numbers, but stores "
                f"{', '.join(attributes) or 'nothing'}"
            )
        value: NDArray[Any] = numpy_helper.to_array(attributes["value"])
        return value

    def model(self) -> onnx.ModelProto:
        """The graph as a model, with the known shapes."""
        self.live()
        read = {name for node in self.nodes for name in node.input}
        stored = [
            numpy_helper.from_array(np.asarray(value, order="C"), name)
            for name, value in self.constants.items()
            if name in read
        ]
        made = [name for node in self.nodes for name in node.output if name]
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(self.shapes[name]))
            for name in made
            if name in self.shapes and name != self.output
        ]
        ends = [
            helper.make_tensor_value_info(name, kind, list(self.shapes.get(name, ())))
            for name, kind in ((self.image, self.image_type), (self.output, TensorProto.FLOAT))
        ]
        graph = helper.make_graph(
            self.nodes,
            self._model.graph.name or "graph",
            ends[:1],
            ends[1:],
            stored,
            value_info=values,
        )
        domains = {node.domain for node in self.nodes} - {"", "ai.onnx"}
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted(domains)]
        made_model = helper.make_model(
            graph, opset_imports=opsets, ir_version=self._model.ir_version
        )
        made_model.doc_string = self._model.doc_string
        return made_model


def _axes(attributes: Mapping[str, Any], given: NDArray[Any] | None) -> list[int] | None:
    found = attributes.get("axes") if given is None else given.reshape(-1).tolist()
    return None if found is None else [int(axis) for axis in found]


def _unsqueeze(attributes: Mapping[str, Any], x: NDArray[Any], given: Any = None) -> Any:
    axes = _axes(attributes, given) or []
    return np.expand_dims(x, tuple(axes))


def _squeeze(attributes: Mapping[str, Any], x: NDArray[Any], given: Any = None) -> Any:
    axes = _axes(attributes, given)
    return np.squeeze(x, None if axes is None else tuple(axes))


def _slice(
    attributes: Mapping[str, Any],
    x: NDArray[Any],
    starts: Any = None,
    ends: Any = None,
    axes: Any = None,
    steps: Any = None,
) -> Any:
    first = attributes["starts"] if starts is None else starts.reshape(-1).tolist()
    last = attributes["ends"] if ends is None else ends.reshape(-1).tolist()
    along = attributes.get("axes") if axes is None else axes.reshape(-1).tolist()
    along = list(range(len(first))) if along is None else along
    by = [1] * len(first) if steps is None else steps.reshape(-1).tolist()
    places = [slice(None)] * x.ndim
    for axis, start, stop, step in zip(along, first, last, by, strict=True):
        places[axis] = slice(start, stop, step)
    return x[tuple(places)]


def _reshape(attributes: Mapping[str, Any], x: NDArray[Any], shape: NDArray[Any]) -> Any:
    sides = [int(side) for side in shape.reshape(-1)]
    if not attributes.get("allowzero", 0):
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(sides)]
    return x.reshape(sides)


def _cast(attributes: Mapping[str, Any], x: NDArray[Any]) -> Any:
    return x.astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))


def _divide(_: Mapping[str, Any], a: NDArray[Any], b: NDArray[Any]) -> Any:
    if a.dtype.kind in "iu":  # towards 0, as in ONNX
        return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)
    return a / b


def _power(_: Mapping[str, Any], a: NDArray[Any], b: NDArray[Any]) -> Any:
    return np.power(a, b).astype(a.dtype)


def _clip(attributes: Mapping[str, Any], x: Any, low: Any = None, high: Any = None) -> Any:
    low = attributes.get("min", -np.inf) if low is None else low
    high = attributes.get("max", np.inf) if high is None else high
    return np.clip(x, low, high).astype(x.dtype)


_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"})


def _count(operator: str, attributes: Mapping[str, Any], inputs: list[Any]) -> int:
    """The number of values that an operator outputs, if it can be far more than it reads."""
    if operator in _ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(one.shape for one in inputs)))
    if operator == "Gather":
        x, places = inputs
        return int(places.size * x.size // max(1, x.shape[attributes.get("axis", 0)]))
    return 0


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Abs": lambda _, x: np.abs(x),
    "Add": lambda _, a, b: a + b,
    "Cast": _cast,
    "Ceil": lambda _, x: np.ceil(x),
    "Clip": _clip,
    "Concat": lambda at, *parts: np.concatenate(parts, axis=at["axis"]),
    "Div": _divide,
    "Exp": lambda _, x: np.exp(x),
    "Flatten": lambda at, x: x.reshape(math.prod(x.shape[: at.get("axis", 1)]), -1),
    "Floor": lambda _, x: np.floor(x),
    "Gather": lambda at, x, places: np.take(x, places, axis=at.get("axis", 0)),
    "Identity": lambda _, x: x,
    "Log": lambda _, x: np.log(x),
    "Max": lambda _, a, b: np.maximum(a, b),
    "Min": lambda _, a, b: np.minimum(a, b),
    "Mul": lambda _, a, b: a * b,
    "Neg": lambda _, x: -x,
    "Pow": _power,
    "Reciprocal": lambda _, x: (1 / x).astype(x.dtype),
    "Reshape": _reshape,
    "Round": lambda _, x: np.rint(x),
    "Shape": lambda at, x: np.array(x.shape, np.int64)[at.get("start", 0) : at.get("end")],
    "Slice": _slice,
    "Sqrt": lambda _, x: np.sqrt(x),
    "Squeeze": _squeeze,
    "Sub": lambda _, a, b: a - b,
    "Transpose": lambda at, x: np.transpose(x, at.get("perm")),
    "Unsqueeze": _unsqueeze,
}
"""The operators that are folded: those with which exporters compute parameters and shapes."""
