"""Run a final integer ONNX file in numpy, with the codes of every layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.text import shape_in_words
from export.graph import Graph, input_dims, node_label, type_name
from export.reading import read_model, refusing_malformed
from export.reference.errors import TooLarge, UnsupportedGraph
from export.reference.indices import Index, index
from export.reference.limits import Held
from export.reference.operands import Function, fold_cast
from export.reference.operators import prepare

Code = TypeVar("Code", bound=np.integer)
Exchange = Callable[[str, NDArray[Any]], NDArray[Any]]
Batch = tuple[NDArray[np.float32], dict[str, NDArray[Code]]]
"""Logits N×classes, and codes by tensor name."""


class Reference(ABC, Generic[Code]):
    """The numbers that one file must give, computed with numpy alone.

    It reads only the file itself, and is independent of the lowering and of the engine.

    Args:
        path: the file: one input of images, one output of logits.
        batch_size: images computed at once; changes memory and speed, never the result.

    Attributes:
        input_shape: (C, H, W) of the images.
    """

    input_shape: tuple[int | None, ...]

    def __init__(self, path: Path | str, *, batch_size: int = 16) -> None:
        if batch_size < 1:
            raise InputError(f"expected a batch_size of at least 1, got {batch_size}")
        self.path = Path(path)
        self.batch_size = batch_size

    @abstractmethod
    def _batch(self, images: NDArray[np.uint8], exchange: Exchange) -> Batch[Code]:
        """Compute one batch of images uint8 N×C×H×W."""

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits, float32 N×classes, of images uint8 N×C×H×W."""
        with refusing_malformed(self.path):
            return np.concatenate([logits for logits, _ in self.batches(images)])

    def codes(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Code]]:
        """Return the codes of every tensor between nodes, by tensor name.

        All are in memory at once (ResNet-20: about 0.7 MB per image); for many images use
        :meth:`batches`.
        """
        parts = [codes for _, codes in self.batches(images)]
        with refusing_malformed(self.path):
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def batches(
        self, images: NDArray[np.uint8], exchange: Exchange = lambda _, values: values
    ) -> Iterator[Batch[Code]]:
        """Yield (logits, codes by tensor name) of each batch of ``batch_size`` images.

        Args:
            images: uint8 N×C×H×W.
            exchange: called with each tensor's name and values; returns the values that later
                nodes use, so that one layer can be checked separately from the layers before it.

        Raises:
            InputError: the images are not uint8 of the file's shape.
            NothingToEvaluate: there are no images.
        """
        self._check(images)
        for start in range(0, len(images), self.batch_size):
            with refusing_malformed(self.path):
                batch = self._in_parts(images[start : start + self.batch_size], exchange)
            yield batch

    def _in_parts(self, images: NDArray[np.uint8], exchange: Exchange) -> Batch[Code]:
        """Compute a batch, in halves if the whole is too large."""
        try:
            return self._batch(images, exchange)
        except TooLarge:
            if len(images) == 1:
                raise
        parts = [self._in_parts(half, exchange) for half in np.array_split(images, 2)]
        held, codes = Held(), {}
        for name in parts[0][1]:
            codes[name] = np.concatenate([part[name] for _, part in parts])
            held.add(f"tensor {name!r}", codes[name])
        return np.concatenate([logits for logits, _ in parts]), codes

    def _check(self, images: NDArray[np.uint8]) -> None:
        if images.dtype != np.uint8 or images.ndim != 4:
            raise InputError(
                f"expected images as uint8 N×C×H×W, got {images.dtype} of shape {images.shape}"
            )
        wrong = [
            (wanted, got)
            for wanted, got in zip(self.input_shape, images.shape[1:], strict=True)
            if wanted is not None and wanted != got
        ]
        if wrong:
            raise InputError(
                f"{self.path} takes images of {shape_in_words(self.input_shape)}, got "
                f"{shape_in_words(images.shape[1:])}"
            )
        if not len(images):
            raise NothingToEvaluate("expected at least one image, got none")


class OnnxReference(Reference[Code]):
    """The reference of an ONNX file: one input of images N×C×H×W, one float32 output N×classes.

    Raises:
        InputError: the file is missing, damaged or hostile.
        UnsupportedGraph: the file has something that the reference does not define.
    """

    input_types: ClassVar[tuple[int, ...]]

    def __init__(self, path: Path | str, *, batch_size: int = 16) -> None:
        super().__init__(path, batch_size=batch_size)
        model = read_model(self.path)
        with refusing_malformed(self.path):
            graph = Graph(model)
            if len(graph.inputs) != 1 or len(graph.outputs) != 1:
                raise UnsupportedGraph(
                    f"expected one input and one output, found inputs "
                    f"{[i.name for i in graph.inputs]} and outputs "
                    f"{[o.name for o in graph.outputs]}"
                )
            image = graph.inputs[0]
            dims, self._type = input_dims(image), image.type.tensor_type.elem_type
            if self._type not in self.input_types or len(dims) != 4:
                wanted = " or ".join(map(type_name, self.input_types))
                raise UnsupportedGraph(
                    f"input {image.name!r} is {type_name(self._type)}{list(dims)}: expected "
                    f"{wanted} of four dimensions, N×C×H×W; a file with a float input is not an "
                    "integer graph"
                )
            self._input, self._output = image.name, graph.outputs[0].name
            self.input_shape = dims[1:]
            self._prepare(graph)

    @abstractmethod
    def _prepare(self, graph: Graph) -> None:
        """Check everything in the file, once."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One computed node of the file.

    Attributes:
        name: the node's name, or that of its output if it has none.
        operator: such as ``QLinearConv``.
        inputs: names of the computed tensors that it reads.
        output: name of its output tensor.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    output: str


class IntegerReference(OnnxReference[np.uint8]):
    """The reference of an all-integer file: every step as the engine's kernels compute it.

    Raises:
        NotReproducible: the file has an addition whose result depends on the engine's rounding.
    """

    input_types = (onnx.TensorProto.UINT8,)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The computed nodes, in the file's order."""
        return tuple(layer for layer, _ in self._steps)

    @property
    def code_tensors(self) -> tuple[str, ...]:
        """Names of the tensors that hold codes, in the file's order, without the input."""
        return tuple(layer.output for layer, _ in self._steps if layer.output != self._output)

    def _batch(self, images: NDArray[np.uint8], exchange: Exchange) -> Batch[np.uint8]:
        tensors: dict[str, NDArray[Any]] = {self._input: images}
        held = Held()
        for layer, function in self._steps:
            made = function(*(tensors[name] for name in layer.inputs))
            made = tensors[layer.output] = exchange(layer.output, made)
            held.add(f"node {layer.name!r} ({layer.operator})", made)
        del tensors[self._input]
        return tensors.pop(self._output), tensors

    def _prepare(self, graph: Graph) -> None:
        constants = graph.constants
        computed = {self._input}
        self._steps: list[tuple[Layer, Function]] = []
        logits: set[str] = set()
        indices: dict[str, Index] = {}
        for node in graph.nodes:
            standard = node.domain in ("", "ai.onnx")
            if standard and node.op_type == "Cast" and node.input[0] not in computed:
                constants[node.output[0]] = fold_cast(node, constants)
                continue
            place = index(node, indices, constants)
            if place is not None:
                indices[node.output[0]] = place
                continue
            reads, function = prepare(node, constants)
            if node.op_type == "Gather":
                reads, function = _looked_up(node, indices, constants, function)
            for name in reads:
                if name not in computed:
                    raise UnsupportedGraph(
                        f"node {node_label(node)} reads {name!r}, which is "
                        f"{'float logits' if name in logits else 'stored'}, where codes were "
                        "expected"
                    )
            output = next(name for name in node.output if name)
            to_float = node.op_type == "QGemm" and not any(node.input[7:9])
            (logits if to_float else computed).add(output)
            name = node.name or output
            layer = Layer(name=name, operator=node.op_type, inputs=reads, output=output)
            self._steps.append((layer, function))
        if logits != {self._output}:
            raise UnsupportedGraph(
                f"output {self._output!r} must be the one float tensor, the logits of a QGemm; "
                f"float tensors found: {sorted(logits) or 'none'}"
            )


def _looked_up(
    node: onnx.NodeProto,
    indices: dict[str, Index],
    constants: dict[str, NDArray[Any]],
    table: Function,
) -> tuple[tuple[str, ...], Function]:
    """The tensors of codes from which a table is indexed, and the lookup as a function of them."""
    place, size = indices.get(node.input[1]), constants[node.input[0]].size
    if place is None:
        raise UnsupportedGraph(
            f"node {node_label(node)} is indexed by {node.input[1]!r}, which is not an index "
            "(codes cast to int32)"
        )
    if place.largest >= size:
        raise UnsupportedGraph(
            f"node {node_label(node)} has {size} entries but is indexed up to {place.largest}"
        )
    return place.reads, lambda *codes: table(place.of(*codes))
