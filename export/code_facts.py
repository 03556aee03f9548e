"""The known facts of every tensor of codes in a final integer file, without running it.

Scale, zero point and the possible range of the codes follow from the file alone. A Clip bounds the
range. An averaged or requantized tensor has the range of its input, through an increasing function.
A tensor that no rule narrows has the range of a byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import graph_inputs, initializers, node_label
from export.reference.errors import UnsupportedGraph
from export.reference.operands import fold_cast

BYTE = (0, 255)
_MOVERS = ("Flatten", "MaxPool", "Reshape", "Resize", "Slice", "SpaceToDepth", "Transpose")
_SCALED = {
    "QGemm": (0,),
    "QLinearAdd": (0, 3),
    "QLinearConv": (0,),
    "QLinearGlobalAveragePool": (0,),
    "QLinearMul": (0, 3),
}
"""By operator, the inputs that are codes, each followed by its scale and zero point."""
PIXEL_SCALE, PIXEL_ZERO_POINT = 2.0**-6, 128


@dataclass(frozen=True, kw_only=True)
class CodeFacts:
    """value = scale · (code - zero_point), low ≤ code ≤ high; codes are bytes."""

    scale: float
    zero_point: int
    low: int = BYTE[0]
    high: int = BYTE[1]

    @property
    def magnitude(self) -> int:
        """The largest |code - zero_point|."""
        return max(self.high - self.zero_point, self.zero_point - self.low)


def constants_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Every stored tensor by name, with the output of a Cast of weights as int8."""
    constants: dict[str, NDArray[Any]] = dict(initializers(model))
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in constants:
            constants[node.output[0]] = fold_cast(node, constants)
    return constants


def code_facts(model: onnx.ModelProto, constants: dict[str, NDArray[Any]]) -> dict[str, CodeFacts]:
    """The facts of the image and of each tensor of codes of an all-integer file for ONNX Runtime,
    by name; ``constants`` of :func:`constants_of`.

    Raises:
        UnsupportedGraph: an operator or a layout that no integer file of this project has.
    """
    image = graph_inputs(model)[0].name
    facts = {image: CodeFacts(scale=PIXEL_SCALE, zero_point=PIXEL_ZERO_POINT)}
    for node in model.graph.node:
        if node.op_type in ("Cast", "QGemm"):
            continue
        try:
            if node.op_type == "Gather":
                facts[node.output[0]] = _of_table(node, model, constants)
            else:
                facts[node.output[0]] = _facts(node, facts, constants)
        except (KeyError, IndexError, ValueError) as error:
            raise UnsupportedGraph(
                f"node {node_label(node)}: the range of its codes is unknown ({error}); only "
                "files that `qadtr export` wrote for ONNX Runtime are supported"
            ) from error
    return facts


def _facts(
    node: onnx.NodeProto, facts: dict[str, CodeFacts], constants: dict[str, NDArray[Any]]
) -> CodeFacts:
    def number(index: int) -> float:
        return float(constants[node.input[index]].item())

    match node.op_type:
        case "QLinearConv" | "QLinearMul":
            return CodeFacts(scale=number(6), zero_point=int(number(7)))
        case "QLinearAdd":
            out = CodeFacts(scale=number(6), zero_point=int(number(7)))
            if node.input[3] not in constants:
                return out
            return _through(facts[node.input[0]], out)
        case "QLinearGlobalAveragePool":
            out = CodeFacts(scale=number(3), zero_point=int(number(4)))
            return _through(facts[node.input[0]], out)
        case "Clip":
            x = facts[node.input[0]]
            low, high = int(number(1)), int(number(2))
            return replace(x, low=max(x.low, low), high=min(x.high, high))
        case "Pad":
            x, value = facts[node.input[0]], int(number(2))
            return replace(x, low=min(x.low, value), high=max(x.high, value))
        case "Concat":
            parts = [facts[name] for name in node.input]
            low, high = min(part.low for part in parts), max(part.high for part in parts)
            return replace(parts[0], low=low, high=high)
        case _ if node.op_type in _MOVERS:
            return facts[node.input[0]]
    raise ValueError(f"no rule for {node.op_type}")


def _of_table(
    node: onnx.NodeProto, model: onnx.ModelProto, constants: dict[str, NDArray[Any]]
) -> CodeFacts:
    """The facts of a table's output: the codes in the table, with the scale that a reader uses."""
    table = constants[node.input[0]]
    names = [node.output[0]]
    while names:
        name = names.pop()
        for reader in model.graph.node:
            for place in (index for index, read in enumerate(reader.input) if read == name):
                if reader.op_type in (*_MOVERS, "Clip", "Concat", "Pad"):
                    names.append(reader.output[0])
                elif place in _SCALED.get(reader.op_type, ()):
                    scale, zero_point = (constants[reader.input[place + i]].item() for i in (1, 2))
                    ends = {"low": int(table.min()), "high": int(table.max())}
                    return CodeFacts(scale=float(scale), zero_point=int(zero_point), **ends)
    raise ValueError("no node with a scale reads the table")


def _through(x: CodeFacts, out: CodeFacts) -> CodeFacts:
    """The range of ``out`` if its values are those of ``x``, or averages of them."""
    ends = [
        int(np.clip(np.rint((code - x.zero_point) * x.scale / out.scale) + out.zero_point, *BYTE))
        for code in (x.low, x.high)
    ]
    return replace(out, low=ends[0], high=ends[1])
