"""Whether a final integer file computes exactly what its fake-quantized network computes.

A layer multiplies codes x - z (at most X in magnitude) by integer weights w and adds an int32 bias
B.  The scale of its input is s_x = o · 2^k with an odd o; those of weights and output are powers of
two.  In the fake-quantized network the same sum, and each of its partial sums in any order, is an
integer in units of 2^k s_w, at most

    o · (X · Σ|w| + |B|)

Below 2^24 every such integer is a float32, so no addition rounds.  The requantization multiplies by
a power of two and rounds the same number half to even in both.  The check uses the file itself, not
the training.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.errors import QadtrError
from export.code_facts import CodeFacts, code_facts, constants_of
from export.graph import graph_inputs, input_dims
from export.reading import read_model
from training.exact import EXACT_LIMIT


class ExactnessError(QadtrError):
    """A layer's sum can exceed the integers that float32 adds exactly; names layer and number."""


@dataclass(frozen=True, kw_only=True)
class LayerBound:
    """The largest accumulator that one layer can reach.

    Attributes:
        layer: name of the node.
        accumulator: largest possible magnitude of the integer sum with its bias.
        odd: odd part of the input's scale, which multiplies the sum in float32.
    """

    layer: str
    accumulator: int
    odd: int

    @property
    def bound(self) -> int:
        """The largest sum in float32, as an integer in units of a power of two."""
        return self.accumulator * self.odd


@dataclass(frozen=True, kw_only=True)
class Exactness:
    """The bound of every layer of one file, in its order."""

    layers: tuple[LayerBound, ...]

    @property
    def largest(self) -> LayerBound:
        """The layer with the largest bound."""
        return max(self.layers, key=lambda layer: layer.bound)

    def summary(self) -> str:
        """A summary of one line."""
        top = self.largest
        return f"exact: no sum can exceed {top.bound:,} ({top.layer}), under 2^24 = {EXACT_LIMIT:,}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"limit": EXACT_LIMIT, "layers": [asdict(layer) for layer in self.layers]}


def require_exact(path: Path) -> Exactness:
    """The bounds of a final integer file.

    Raises:
        ExactnessError: a scale is not a power of two, or a sum can reach 2^24.
        UnsupportedGraph: it is not an integer file of this project.
    """
    model = read_model(path)
    constants = constants_of(model)
    facts = code_facts(model, constants)
    size = input_dims(graph_inputs(model)[0])[2:]
    layers: list[LayerBound] = []
    for node in model.graph.node:
        match node.op_type:
            case "QLinearConv" | "QGemm":
                layers.append(_bound(node, constants, facts))
            case "QLinearAdd":
                _check_addition(node, constants, facts)
            case "QLinearGlobalAveragePool":
                _check_average(node, facts, size)
    return Exactness(layers=tuple(layers))


def odd_part(scale: float) -> int:
    """The odd integer o of a positive scale o · 2^k."""
    mantissa, _ = math.frexp(scale)
    integer = int(mantissa * 2**53)
    return integer // (integer & -integer)


def _bound(
    node: onnx.NodeProto, constants: dict[str, NDArray[Any]], facts: dict[str, CodeFacts]
) -> LayerBound:
    convolution = node.op_type == "QLinearConv"
    x = facts[node.input[0]]
    weight = constants[node.input[3]].astype(np.int64)
    zero_point = constants[node.input[5]].astype(np.int64) if node.input[5:] else np.int64(0)
    weight = weight - zero_point.reshape(-1, *[1] * (weight.ndim - 1))
    if not convolution and not any(a.name == "transB" and a.i for a in node.attribute):
        weight = weight.T
    sums = np.abs(weight.reshape(len(weight), -1)).sum(axis=1)
    live = sums > 0
    scales = np.broadcast_to(constants[node.input[4]].astype(np.float64).reshape(-1), sums.shape)
    checked = [("weights", float(s)) for s in np.unique(scales[live])]
    if convolution:
        checked.append(("output", facts[node.output[0]].scale))
    for what, scale in checked:
        _require_power(node, what, scale)
    bias_at = 8 if convolution else 6
    bias = np.abs(constants[node.input[bias_at]].astype(np.int64)) if node.input[bias_at:] else 0
    # A channel without weights is constant: its code is the bias, and nothing is summed.
    totals = np.where(live, sums * x.magnitude + bias, 0)
    found = LayerBound(
        layer=node.name, accumulator=int(totals.max(initial=0)), odd=odd_part(x.scale)
    )
    if found.bound >= EXACT_LIMIT:
        times = f" times {found.odd}, the odd part of its input's scale," if found.odd > 1 else ""
        raise ExactnessError(
            f"layer {node.name}: the accumulator of channel {int(totals.argmax())} can reach "
            f"{found.accumulator:,};{times} that is not under 2^24 = {EXACT_LIMIT:,}, above "
            "which float32 is not exact; train with exact = true under [network], which keeps "
            "the bound, or give the layer fewer bits under [network.mixed]"
        )
    return found


def _require_power(node: onnx.NodeProto, what: str, scale: float) -> None:
    if odd_part(scale) != 1:
        raise ExactnessError(
            f"layer {node.name}: the scale {scale:.9g} of its {what} is not a power of two; only a "
            "network trained with exact = true under [network] is exact"
        )


def _check_addition(
    node: onnx.NodeProto, constants: dict[str, NDArray[Any]], facts: dict[str, CodeFacts]
) -> None:
    out = facts[node.output[0]]
    if node.input[3] not in constants:
        _require_power(node, "sum", out.scale)
        return
    ratio = out.scale / facts[node.input[0]].scale
    _require_power(node, "input", facts[node.input[0]].scale)
    if ratio != round(ratio) or round(ratio) % 2 == 0:
        raise ExactnessError(
            f"layer {node.name}: it requantizes by {ratio:.9g}, which is not an odd integer: a "
            "code could lie halfway between two"
        )


def _check_average(
    node: onnx.NodeProto, facts: dict[str, CodeFacts], size: tuple[int | None, ...]
) -> None:
    x = facts[node.input[0]]
    _require_power(node, "input", x.scale)
    positions = (size[0] or 0) * (size[1] or 0)
    if positions * x.magnitude >= EXACT_LIMIT:
        raise ExactnessError(
            f"layer {node.name}: the sum over up to {positions:,} positions can reach "
            f"{positions * x.magnitude:,}, not under 2^24 = {EXACT_LIMIT:,}"
        )
