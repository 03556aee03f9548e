"""Run a quantized source file independently of the lowering and its reference.

Each quantizer of QONNX is written out in standard operators, and ONNX Runtime runs the file node by
node, without optimizations:

    Quant         Mul(Sub(Clip(Round(Add(Div(x, s), z)), low, high), z), s)
    BipolarQuant  Where(x >= 0, s, -s)
    Trunc         Mul(Floor or Round(Div(Round(Div(x, s)), 2^n)), s), clipped if it has six inputs

A test compares this with the ``qonnx`` package's own executor, which takes a second or more per
image.

Reference: https://github.com/fastmachinelearning/qonnx/tree/main/docs/qonnx-custom-ops
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import EngineUnavailable, InputError
from deploy.core.text import one_line
from deploy.device.onnxruntime_engine import plain_session
from export.graph import attributes_of, graph_inputs, input_dims, node_label
from export.graph_builder import MICROSOFT
from export.reading import read_model

NAME = "the source file run by itself"
READABLE_IR_VERSION = 10
_QUANTIZERS = ("Quant", "IntQuant", "BipolarQuant", "Trunc")


class SourceRun:
    """One source file in ONNX Runtime, its quantizers written out.

    Args:
        path: a file with one input.
        tensors: whose values are returned, besides the output.
        model: of the file, if it has been read before.

    Raises:
        EngineUnavailable: onnxruntime is not installed.
        InputError: the file is damaged, or ONNX Runtime does not run it.
    """

    def __init__(
        self, path: Path, tensors: Sequence[str] = (), model: onnx.ModelProto | None = None
    ) -> None:
        self.path = path
        model = written_out(read_model(path) if model is None else model, path)
        made = {name for node in model.graph.node for name in node.output}
        self.tensors = tuple(dict.fromkeys(name for name in tensors if name in made))
        self._outputs = list(self.tensors)
        if self.tensors:
            del model.graph.output[:]
            _drop_unused(model.graph, self.tensors)
            kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
            model.graph.output.extend(helper.make_value_info(name, kind) for name in self.tensors)
        else:
            self._outputs = [model.graph.output[0].name]
        image = graph_inputs(model)[0]
        self._image, dims = image.name, input_dims(image)
        self._batch = dims[0] if dims and dims[0] else None
        self._type = helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type)
        self.channels_last = len(dims) == 4 and dims[1] not in (1, 3) and dims[3] in (1, 3)
        try:
            self._session = plain_session(model.SerializeToString())
        except EngineUnavailable:
            raise
        except Exception as error:  # onnxruntime's exceptions have no public base class
            raise InputError(
                f"{path}: ONNX Runtime cannot run the source file, so there is nothing to "
                f"compare with: {one_line(str(error))}"
            ) from error

    def run(self, inputs: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The values of ``tensors`` by name, for inputs N×C×H×W as the file takes them. Without
        ``tensors``, the values of the output, under the name "".

        Raises:
            InputError: ONNX Runtime fails.
        """
        if self.channels_last:
            inputs = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
        rows: list[list[NDArray[Any]]] = []
        step = self._batch or 1
        for start in range(0, len(inputs), step):
            part = inputs[start : start + step]
            fed = part[np.arange(step) % len(part)].astype(self._type)
            try:
                values = self._session.run(self._outputs, {self._image: fed})
            except Exception as error:
                raise InputError(
                    f"{self.path}: ONNX Runtime fails on the source file: {one_line(str(error))}"
                ) from error
            rows.append([value[: len(part)] for value in values])
        names = self.tensors or ("",)
        return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}


def _drop_unused(graph: onnx.GraphProto, wanted: Sequence[str]) -> None:
    """Remove the nodes that nothing wanted depends on."""
    needed, kept = set(wanted), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def written_out(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """A copy of a model with every quantizer of QONNX in standard operators.

    Raises:
        InputError: a quantizer whose parameters are not stored, or of another rounding mode.
    """
    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            stored[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(graph.node):
        if node.op_type not in _QUANTIZERS or node.domain in ("", "ai.onnx"):
            nodes.append(node)
            continue
        writer = _Writer(node, f"source_run/{index}", stored, path)
        nodes += writer.write()
        graph.initializer.extend(writer.made)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    opsets = [e.version for e in found.opset_import if e.domain in ("", "ai.onnx")]
    others = [e for e in found.opset_import if e.domain == MICROSOFT]
    del found.opset_import[:]
    found.opset_import.extend([helper.make_opsetid("", max(11, *opsets)), *others])
    if max(opsets) < 11:
        found = onnx.version_converter.convert_version(found, 11)
    found.ir_version = max(4, min(found.ir_version, READABLE_IR_VERSION))
    return found


class _Writer:
    """One quantizer in standard operators."""

    def __init__(
        self, node: onnx.NodeProto, prefix: str, stored: dict[str, NDArray[Any]], path: Path
    ) -> None:
        self.node, self.prefix, self.path = node, prefix, path
        self.stored = stored
        self.attributes = attributes_of(node)
        self.nodes: list[onnx.NodeProto] = []
        self.made: list[onnx.TensorProto] = []

    def write(self) -> list[onnx.NodeProto]:
        """The nodes; the last one gives the quantizer's output."""
        x = self.node.input[0]
        if self.node.op_type == "BipolarQuant":
            scale = self.node.input[1]
            at_least = self.add("Not", [self.add("Less", [x, self.number(0.0)])])
            last = self.add("Where", [at_least, scale, self.add("Neg", [scale])])
        elif self.node.op_type == "Trunc":
            last = self.truncated(x)
        else:
            last = self.quantized(x)
        self.nodes[-1].output[0] = self.node.output[0]
        assert last
        return self.nodes

    def add(self, operator: str, inputs: Sequence[str]) -> str:
        output = f"{self.prefix}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output))
        return output

    def number(self, value: float) -> str:
        name = f"{self.prefix}/number{len(self.made)}"
        self.made.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def parameter(self, place: int, what: str) -> float:
        value = self.stored.get(self.node.input[place])
        if value is None or value.size != 1:
            raise InputError(f"{self.path}: {node_label(self.node)}: its {what} is not stored")
        return float(value.item())

    def rounding(self, modes: Sequence[str], default: str) -> str:
        mode = self.attributes.get("rounding_mode", default.encode()).decode().upper()
        if mode not in modes:
            raise InputError(
                f"{self.path}: {node_label(self.node)}: unknown rounding mode {mode}; known: "
                f"{', '.join(modes)}"
            )
        return str(mode)

    def bounds(self, bits: float, *, signed_by_default: int) -> tuple[float, float]:
        narrow = self.attributes.get("narrow", 0)
        if self.attributes.get("signed", signed_by_default):
            return -(2.0 ** (bits - 1)) + narrow, 2.0 ** (bits - 1) - 1
        return 0.0, 2.0**bits - 1 - narrow

    def quantized(self, x: str) -> str:
        self.rounding(("ROUND", "HALF_EVEN"), "ROUND")
        _, scale, zero, _ = self.node.input
        low, high = self.bounds(self.parameter(3, "bit-width"), signed_by_default=1)
        steps = self.add("Round", [self.add("Add", [self.add("Div", [x, scale]), zero])])
        codes = self.add("Clip", [steps, self.number(low), self.number(high)])
        return self.add("Mul", [self.add("Sub", [codes, zero]), scale])

    def truncated(self, x: str) -> str:
        mode = self.rounding(("FLOOR", "ROUND", "HALF_EVEN"), "FLOOR")
        scale, zero = self.node.input[1:3]
        if len(self.node.input) == 5:
            bits, out = (self.parameter(i, "bit-width") for i in (3, 4))
            divisor, out_scale, bounds = 2.0 ** (bits - out), scale, None
        else:
            ratio = self.parameter(4, "output scale") / self.parameter(1, "scale")
            divisor, out_scale = 2.0 ** np.rint(math.log2(ratio)), self.node.input[4]
            bounds = self.bounds(self.parameter(5, "bit-width"), signed_by_default=1)
        steps = self.add("Round", [self.add("Add", [self.add("Div", [x, scale]), zero])])
        parts = self.add("Div", [steps, self.number(divisor)])
        if bounds is not None:
            parts = self.add("Clip", [parts, *(self.number(end) for end in bounds)])
        codes = self.add("Floor" if mode == "FLOOR" else "Round", [parts])
        if bounds is not None:
            zero = self.add("Div", [zero, self.number(divisor)])
        return self.add("Mul", [self.add("Sub", [codes, zero]), out_scale])
