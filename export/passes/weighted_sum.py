"""Gains, biases and clamps between a sum of products and its quantizer, combined into one map.

Between a Conv, Gemm or MatMul and the quantizer of its result, files have BatchNormalization, a
separately added bias, multiplications and divisions by numbers, Relu and Clip, in any order.  All
but the clamps are y = gain · x + bias per channel and compose.  A clamp to a … b before a gain
g > 0 and bias c equals a clamp to g a + c … g b + c after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graph import attributes_of
from export.passes.qonnx_graph import QonnxGraph
from export.passes.rule import Clamp, Context, Refusal, clamp_of

MOST_LINKS = 64


@dataclass(frozen=True, kw_only=True)
class Affine:
    """y = gain * x + bias per channel, float64 (C,), or (1,) for all channels alike."""

    gain: NDArray[np.float64]
    bias: NDArray[np.float64]

    def after(self, first: Affine) -> Affine:
        """This map applied to the result of ``first``."""
        return Affine(gain=self.gain * first.gain, bias=self.bias + self.gain * first.bias)

    def of(self, channels: int) -> Affine:
        """This map with one value for each channel.

        Raises:
            Refusal: it has another number of channels.
        """
        if {len(self.gain), len(self.bias)} - {1, channels}:
            raise Refusal(
                f"its gains and biases have {max(len(self.gain), len(self.bias))} channels, but "
                f"it gives {channels}"
            )
        gain, bias = (np.broadcast_to(one, (channels,)) for one in (self.gain, self.bias))
        return Affine(gain=gain, bias=bias)


NOTHING = Affine(gain=np.ones(1), bias=np.zeros(1))


def affine_of(node: onnx.NodeProto, source: QonnxGraph) -> Affine:
    """A BatchNormalization's gain and bias, in float64."""
    if any(name not in source.constants for name in node.input[1:]):
        raise Refusal("its BatchNormalization has parameters that are not constants")
    gamma, beta, mean, variance = (source.constants[n].astype(np.float64) for n in node.input[1:])
    # ONNX stores epsilon as float32; 0 and 1 are exact, so a folded BatchNormalization is kept.
    epsilon = float(attributes_of(node).get("epsilon", 1e-5))
    gain = gamma / np.sqrt(variance + epsilon)
    return Affine(gain=gain, bias=beta - mean * gain)


def affine_before(
    name: str, context: Context, until: Sequence[str]
) -> tuple[onnx.NodeProto | None, str, Affine, Clamp]:
    """Combine the operators before the tensor ``name`` into one affine map and one clamp.

    Args:
        name: of the tensor.
        context: the search also ends at tensors with known codes.
        until: operators at which the search ends.

    Returns:
        The node at which the search ends, None for codes; the name of its tensor; and the affine
        map and the clamp after it: ``name`` = clamp(affine(tensor)).
    """
    source = context.source
    total, clamp = NOTHING, Clamp()
    for _ in range(MOST_LINKS):
        node = source.producer(name)
        if name in context.codes or node is None or node.op_type in until:
            return (None if name in context.codes else node), name, total, clamp
        if node.op_type in ("Relu", "Clip"):
            clamp = _clamped(clamp, clamp_of(node, source), total)
            name = node.input[0]
        elif node.op_type == "BatchNormalization":
            total, name = total.after(affine_of(node, source)), node.input[0]
        elif node.op_type == "Neg":
            total = total.after(Affine(gain=np.array([-1.0]), bias=np.zeros(1)))
            name = node.input[0]
        else:
            link = _arithmetic(node, source) if node.op_type in _ARITHMETIC else None
            if link is None:
                return node, name, total, clamp
            total, name = total.after(link[0]), link[1]
    raise Refusal(f"more than {MOST_LINKS} operators precede it")


_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def _clamped(later: Clamp, earlier: Clamp, total: Affine) -> Clamp:
    if earlier == Clamp():
        return later
    gains, biases = np.unique(total.gain), np.unique(total.bias)
    if len(gains) != 1 or len(biases) != 1 or gains[0] == 0.0:
        raise Refusal(
            "a Relu or Clip precedes gains or biases per channel, which change its bounds for "
            "each channel; put it after them"
        )
    ends = np.sort(gains[0] * np.array([earlier.low, earlier.high]) + biases[0])
    low, high = (float(v) for v in np.clip(ends, later.low, later.high))
    return Clamp(low=low, high=high)


def _arithmetic(node: onnx.NodeProto, source: QonnxGraph) -> tuple[Affine, str] | None:
    """The map of a sum, difference, product or quotient with a constant, and its other operand."""
    stored = [source.constant_values(name) for name in node.input]
    if (stored[0] is None) == (stored[1] is None):
        return None
    first = stored[0] is not None
    value = stored[0] if first else stored[1]
    assert value is not None
    per_channel = _per_channel(value, len(source.shapes.get(node.output[0], ())))
    one, none = np.ones_like(per_channel), np.zeros_like(per_channel)
    match node.op_type:
        case "Add":
            found = Affine(gain=one, bias=per_channel)
        case "Sub":
            found = Affine(gain=-one if first else one, bias=per_channel if first else -per_channel)
        case "Mul":
            found = Affine(gain=per_channel, bias=none)
        case _:
            if first or not bool(per_channel.all()):
                return None
            found = Affine(gain=1.0 / per_channel, bias=none)
    return found, node.input[1 if first else 0]


def _per_channel(value: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """A stored operand as one value, or one for each channel (axis 1)."""
    if value.size == 1:
        return value.reshape(1)
    wide = value.reshape((1,) * max(0, rank - value.ndim) + value.shape)
    if rank < 2 or wide.ndim != rank or wide.shape[1] != wide.size:
        raise Refusal(
            f"a stored tensor of the shape {list(value.shape)} is neither one number nor one per "
            "channel"
        )
    return wide.reshape(-1)
