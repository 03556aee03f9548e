"""Compute a Q/DQ file in numpy and float64, without engine, lowering or torch.

Between quantizers the file's operators are real-number operators on codes times scales, and sums of
a few thousand of them. float64 has 29 bits more than float32 for these. So the codes are those of
exact arithmetic, unless a value lies within 2^-40 of a rounding tie. An engine that sums in
float32, or in integers with a float32 multiplier, may round to the other side of a tie. That is why
engines of such files have a budget (:mod:`export.budget`), and this reference has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import Graph, attributes_of, node_label
from export.reference.arithmetic import (
    largest_of,
    padded,
    windows,
)
from export.reference.errors import UnsupportedGraph
from export.reference.limits import Held, require_room, require_work
from export.reference.network import Batch, Exchange, OnnxReference

Values = NDArray[np.float64]
Attributes = Mapping[str, Any]

_BYTE_OFFSET: dict[int, int] = {onnx.TensorProto.UINT8: 0, onnx.TensorProto.INT8: 128}
"""By input type, the offset that is subtracted from an image's byte to give the input's code."""


class QdqReference(OnnxReference[np.int16]):
    """The reference of a Q/DQ file; codes are named after the outputs of their QuantizeLinear."""

    input_types = tuple(_BYTE_OFFSET)

    def _prepare(self, graph: Graph) -> None:
        self._graph = graph
        last_reader = {name: index for index, node in enumerate(graph.nodes) for name in node.input}
        last_reader.pop(self._output, None)
        self._done: dict[int, list[str]] = {}
        for name, index in last_reader.items():
            if name and name not in graph.constants:
                self._done.setdefault(index, []).append(name)
        for node in graph.nodes:
            if node.domain not in ("", "ai.onnx") or node.op_type not in _OPERATORS:
                raise UnsupportedGraph(
                    f"node {node_label(node)} of domain {node.domain!r} has no Q/DQ reference; "
                    f"supported: {', '.join(supported_qdq_operators())}"
                )

    def _batch(self, images: NDArray[np.uint8], exchange: Exchange) -> Batch[np.int16]:
        values = images.astype(np.float64) - _BYTE_OFFSET[self._type]
        tensors: dict[str, NDArray[Any]] = {**self._graph.constants, self._input: values}
        codes: dict[str, NDArray[np.int16]] = {}
        held = Held()
        held.add("the images", values)
        for index, node in enumerate(self._graph.nodes):
            given = [tensors[name] if name else None for name in node.input]
            made = _OPERATORS[node.op_type](attributes_of(node), *given)
            made = exchange(node.output[0], made)
            tensors[node.output[0]] = made
            held.add(f"node {node_label(node)}", made)
            if node.op_type == "QuantizeLinear":
                codes[node.output[0]] = made.astype(np.int16)
                held.add(f"node {node_label(node)}", codes[node.output[0]])
            for name in self._done.get(index, ()):
                held.drop(tensors.pop(name))
        return tensors[self._output].astype(np.float32), codes


def supported_qdq_operators() -> tuple[str, ...]:
    """Return the operators that the reference defines."""
    return tuple(sorted(_OPERATORS))


def _along(parameter: NDArray[Any], x: NDArray[Any], attributes: Attributes) -> Values:
    """A scale or zero point in float64, reshaped to broadcast against ``x``."""
    wide = parameter.astype(np.float64)
    if wide.size == 1:
        return wide.reshape(())
    axis = int(attributes.get("axis", 1)) % x.ndim
    if wide.shape != (x.shape[axis],):
        raise UnsupportedGraph(f"{wide.shape} scales or zero points for axis {axis} of {x.shape}")
    return wide.reshape([-1 if index == axis else 1 for index in range(x.ndim)])


def _quantize(attributes: Attributes, x: Values, scale: Any, zero: Any = None) -> Values:
    kind = np.uint8 if zero is None else zero.dtype
    if kind not in (np.uint8, np.int8):
        raise UnsupportedGraph(
            f"QuantizeLinear to {kind} is not supported by the reference; supported: uint8, int8"
        )
    bounds = np.iinfo(kind)
    shift = 0.0 if zero is None else _along(zero, x, attributes)
    codes = np.rint(x / _along(scale, x, attributes)) + shift
    return np.clip(codes, bounds.min, bounds.max)


def _dequantize(attributes: Attributes, x: NDArray[Any], scale: Any, zero: Any = None) -> Values:
    shift = 0.0 if zero is None else _along(zero, x, attributes)
    return (x.astype(np.float64) - shift) * _along(scale, x, attributes)


def _clip(_: Attributes, x: Values, low: Any = None, high: Any = None) -> Values:
    lowest = -np.inf if low is None else float(low)
    return np.clip(x, lowest, np.inf if high is None else float(high))


def _convolution(attributes: Attributes, x: Values, weight: Values, bias: Any = None) -> Values:
    groups, kernel = int(attributes.get("group", 1)), weight.shape[2:]
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UnsupportedGraph(
            "Conv with auto_pad is not supported by the reference; write the padding out"
        )
    if groups < 1 or len(weight) % groups or x.shape[1] != groups * weight.shape[1]:
        raise UnsupportedGraph(
            f"Conv of {x.shape[1]} channels in {groups} groups with weights of {weight.shape}"
        )
    taken = _windows(attributes, x, kernel, 0.0, _integers(attributes, "dilations", 2, least=1))
    n, _, height, width = taken.shape[:4]
    require_room("Conv", *taken.shape)
    require_room("Conv", n, len(weight), height, width)
    require_work("Conv", n * height * width * weight.size)
    outputs, depth = len(weight) // groups, weight.shape[1] * kernel[0] * kernel[1]
    parts = []
    for group in range(groups):
        channels = slice(group * weight.shape[1], (group + 1) * weight.shape[1])
        columns = taken[:, channels].transpose(0, 2, 3, 1, 4, 5).reshape(-1, depth)
        matrix = weight[group * outputs : (group + 1) * outputs].reshape(outputs, depth)
        parts.append((columns @ matrix.T).reshape(n, height, width, outputs))
    total = np.concatenate(parts, axis=3).transpose(0, 3, 1, 2)
    return total if bias is None else total + bias.astype(np.float64)[:, None, None]


def _integers(attributes: Attributes, name: str, length: int, *, least: int) -> list[int]:
    """An attribute of ``length`` integers, each at least ``least``, which is also the default."""
    values = list(attributes.get(name, [least] * length))
    if len(values) != length or min(values) < least:
        raise UnsupportedGraph(
            f"{name} {values}: expected {length} integers from {least} on (the reference defines "
            "two dimensions)"
        )
    return values


def _windows(
    attributes: Attributes,
    x: Values,
    kernel: Sequence[int],
    fill: float,
    dilations: Sequence[int] = (1, 1),
) -> Values:
    strides = _integers(attributes, "strides", 2, least=1)
    return windows(x, kernel, strides, _integers(attributes, "pads", 4, least=0), fill, dilations)


def _max_pool(attributes: Attributes, x: Values) -> Values:
    if attributes.get("ceil_mode", 0) or set(attributes.get("dilations", [1])) != {1}:
        raise UnsupportedGraph(
            "MaxPool with ceil_mode or dilations is not supported by the reference"
        )
    kernel = _integers(attributes, "kernel_shape", 2, least=1)
    return largest_of(_windows(attributes, x, kernel, -np.inf))


def _gemm(attributes: Attributes, x: Values, weight: Values, bias: Any = None) -> Values:
    if attributes.get("transA", 0) or {attributes.get(k, 1.0) for k in ("alpha", "beta")} != {1.0}:
        raise UnsupportedGraph("Gemm with alpha, beta or transA is not supported by the reference")
    if x.ndim != 2 or weight.ndim != 2:
        raise UnsupportedGraph(
            f"Gemm of {x.shape} and {weight.shape}: expected two dimensions of both"
        )
    product = x @ (weight.T if attributes.get("transB", 0) else weight)
    return product if bias is None else product + bias.astype(np.float64)


def _flatten(attributes: Attributes, x: Values) -> Values:
    return x.reshape(int(np.prod(x.shape[: attributes.get("axis", 1)])), -1)


def _reshape(_: Attributes, x: Values, shape: NDArray[np.int64]) -> Values:
    return x.reshape([size or x.shape[index] for index, size in enumerate(shape.tolist())])


def _average_pool(attributes: Attributes, x: Values) -> Values:
    if attributes.get("ceil_mode", 0) or not attributes.get("count_include_pad", 0):
        raise UnsupportedGraph("AveragePool must count its padding and have no ceil_mode")
    kernel = _integers(attributes, "kernel_shape", 2, least=1)
    mean: Values = _windows(attributes, x, kernel, 0.0).mean(axis=(4, 5))
    return mean


def _pad(_: Attributes, x: Values, amounts: NDArray[np.int64], value: Any = None) -> Values:
    widths = [(int(before), int(after)) for before, after in amounts.reshape(2, -1).T]
    return padded(x, widths, 0.0 if value is None else float(value))


def _resize(_: Attributes, x: Values, _roi: Any, factors: NDArray[np.float32]) -> Values:
    require_room("Resize", *x.shape, int(factors[2]), int(factors[3]))
    return x.repeat(int(factors[2]), axis=2).repeat(int(factors[3]), axis=3)


def _paired(function: Callable[[Values, Values], Values]) -> Callable[..., Values]:
    """An operator from a function of two tensors that broadcast against each other."""

    def computed(_: Attributes, a: Values, b: Values) -> Values:
        require_room("two tensors that meet", *np.broadcast_shapes(a.shape, b.shape))
        return function(a, b)

    return computed


def _concat(attributes: Attributes, *parts: Values) -> Values:
    require_room("Concat", sum(part.size for part in parts))
    return np.concatenate(parts, axis=attributes["axis"])


def _slice(_: Attributes, x: Values, starts: Any, stops: Any, axes: Any) -> Values:
    places = {int(a): slice(int(b), int(e)) for a, b, e in zip(axes, starts, stops, strict=True)}
    return x[tuple(places.get(axis, slice(None)) for axis in range(x.ndim))]


def _elu(attributes: Attributes, x: Values) -> Values:
    return np.where(x > 0.0, x, attributes.get("alpha", 1.0) * np.expm1(np.minimum(x, 0.0)))


def _sigmoid(_: Attributes, x: Values) -> Values:
    return 1.0 / (1.0 + np.exp(np.clip(-x, None, 700.0)))


_OPERATORS: Mapping[str, Callable[..., Values]] = {
    "Abs": lambda _, x: np.abs(x),
    "Add": _paired(np.add),
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _convolution,
    "DequantizeLinear": _dequantize,
    "Div": _paired(np.divide),
    "Elu": _elu,
    "Erf": lambda _, x: np.vectorize(math.erf, otypes=[np.float64])(x),
    "Exp": lambda _, x: np.exp(x),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _, x: x.mean(axis=(2, 3), keepdims=True),
    "LeakyRelu": lambda attributes, x: np.where(x < 0.0, attributes.get("alpha", 0.01) * x, x),
    "MaxPool": _max_pool,
    "Mul": _paired(np.multiply),
    "Neg": lambda _, x: -x,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "Relu": lambda _, x: np.maximum(x, 0.0),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Softplus": lambda _, x: np.logaddexp(0.0, x),
    "Sqrt": lambda _, x: np.sqrt(np.maximum(x, 0.0)),
    "Sub": _paired(np.subtract),
    "Tanh": lambda _, x: np.tanh(x),
    "Transpose": lambda attributes, x: x.transpose(attributes["perm"]),
}
