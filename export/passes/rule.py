"""The definition of a lowering rule, and the common parts of rules: codes, the context, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Generic, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.errors import QadtrError
from export.graph import attributes_of, node_label
from export.graph_builder import GraphBuilder
from export.litert_builder import LiteRtBuilder
from export.passes.qonnx_graph import QonnxGraph, Quantizer

BYTE_HIGH = 255
SIGNED_ZERO_POINT = 128
"""uint8 zero point of signed codes: code + 128."""


NO_CODES = "no integer codes"
"""Part of a refusal's reason if a layer reads an unquantized tensor."""


class LoweringError(QadtrError):
    """A layer cannot be lowered to integers; the message names it and each rule's reason."""


class ContractError(LoweringError):
    """A pass broke its contract: an error in the pass, not in the network."""


class Refusal(Exception):
    """A rule does not match; the text is the reason, as a clause.

    ``other``: the layer is not of the rule's kind; this is reported only if the layer is of no
    rule's kind.
    """

    def __init__(self, text: str, *, other: bool = False) -> None:
        super().__init__(text)
        self.other = other


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A tensor of codes: value = scale * (code - zero_point), code in ``low`` … ``high``.

    ``name`` is the tensor that represents them in the graph being built: the codes themselves
    (uint8) in the all-integer graph, their values (float32) in a Q/DQ graph.
    """

    name: str
    scale: np.float32
    zero_point: int
    low: int
    high: int

    @property
    def fill_a_byte(self) -> bool:
        """Whether uint8 itself saturates at the ends of the codes."""
        return self.low <= 0 and self.high >= BYTE_HIGH


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The form of the quantizers of a Q/DQ target (:mod:`export.passes.quantizers`).

    Attributes:
        signed_only: every tensor of codes is int8, including unsigned codes.
        bias_on_grid: biases are multiples of the accumulator's step, as in the all-integer graph;
            otherwise they keep their values (int8 codes of a doubled step have a coarser grid than
            the network was trained with, and float biases need no grid).
        relu_before_requantizing: a Relu that changes nothing is written before a change of step of
            unsigned codes (:mod:`export.passes.requantize`).
    """

    signed_only: bool
    bias_on_grid: bool
    relu_before_requantizing: bool


STANDARD = Dialect(signed_only=False, bias_on_grid=True, relu_before_requantizing=True)
SIGNED = Dialect(signed_only=True, bias_on_grid=False, relu_before_requantizing=False)


@dataclass(kw_only=True)
class Context:
    """The QONNX graph being read, the graph being built, and the codes known so far.

    ``codes`` maps a QONNX tensor to the codes that represent it; ``storage`` is "low-bit" (INT2 and
    INT4 initializers followed by a Cast) or "int8"; ``tune`` is what the kernels are chosen for
    (:mod:`export.passes.kernels`); ``dialect`` is that of the quantizers in a Q/DQ graph;
    ``code_range`` are the least and largest code of the target's type; ``litert`` is the file that
    the target "litert" builds instead of the graph.
    """

    source: QonnxGraph
    builder: GraphBuilder
    storage: str
    tune: str = "any"
    dialect: Dialect = STANDARD
    code_range: tuple[int, int] = (0, BYTE_HIGH)
    litert: LiteRtBuilder | None = None
    codes: dict[str, Codes] = field(default_factory=dict)

    def codes_of(self, tensor: str, what: str) -> Codes:
        """The codes of a QONNX tensor; raises Refusal if it has none. ``what`` names it."""
        if tensor not in self.codes:
            maker = named(self.source.producer(tensor))
            raise Refusal(f"{what} {tensor!r}, of {maker}, has {NO_CODES}")
        return self.codes[tensor]


class Place(Enum):
    """The nodes of a QONNX graph at which rules are tried."""

    QUANTIZER = "an activation quantizer"
    CODES = "a node that moves or chooses codes"
    LOGITS = "the node that gives the logits"


Found = TypeVar("Found")
Written = tuple[Codes | None, str]
"""The codes that now represent the layer (None: it gives the logits), and a log text on what was
written (empty: nothing)."""


@dataclass(frozen=True)
class Rule(Generic[Found]):
    """One pass over the layers of one kind: a way to give a QONNX tensor its codes.

    The driver tries the rules of a target in their order at every node of their ``place``. The
    result of :func:`match` is written immediately, and the resulting codes are checked
    (:func:`require_codes`).

    Attributes:
        name: for logs and errors.
        match: finds the parts of the layer at a node whose output needs codes or is the logits, and
            changes nothing; raises :class:`Refusal` if the rule does not match.
        write: adds the target's nodes for the match, under the layer's name.
        place: where the rule is tried.
    """

    name: str
    match: Callable[[onnx.NodeProto, Context], Found]
    write: Callable[[Found, str, Context], Written]
    place: Place = Place.QUANTIZER


def require_codes(rule: str, layer: str, codes: Codes | None, code_range: tuple[int, int]) -> Codes:
    """Check the contract of every rule: the layer has codes that the target's types can hold.

    Raises:
        ContractError: it has no codes, or codes that the types cannot hold.
    """
    if codes is None:
        raise ContractError(f"{layer}: the rule {rule!r} matched but gave no codes")
    low, high = code_range
    if not (low <= codes.low <= codes.high <= high and low <= codes.zero_point <= high):
        raise ContractError(
            f"{layer}: the rule {rule!r} gave codes {codes.low}…{codes.high} with zero point "
            f"{codes.zero_point}, but the target holds only {low}…{high}"
        )
    if not (np.isfinite(codes.scale) and codes.scale > 0):
        raise ContractError(f"{layer}: the rule {rule!r} gave the scale {codes.scale}")
    return codes


@dataclass(frozen=True, kw_only=True)
class Clamp:
    """The effect of a Relu or Clip before a quantizer: values stay in ``low`` … ``high``."""

    low: float = -math.inf
    high: float = math.inf

    def codes(self, low: int, high: int, step: np.float32) -> tuple[int, int]:
        """The codes of ``low`` … ``high`` that remain after the clamp.

        Rounding and division by a positive step are monotone, so clamping values to a … b before
        the quantizer equals clamping codes to round(a / s) … round(b / s) after it, in float32 too.
        """
        ends = np.array([self.low, self.high], np.float32)
        lowest, highest = np.clip(np.rint(ends / step), low, high)
        return int(lowest), int(highest)


def clamp_of(node: onnx.NodeProto, source: QonnxGraph) -> Clamp:
    """The effect of a Relu or Clip."""
    if node.op_type == "Relu":
        return Clamp(low=0.0)
    attributes = attributes_of(node)
    bounds = [attributes.get("min", -math.inf), attributes.get("max", math.inf)]
    for index, bound in enumerate(node.input[1:3]):
        if bound:
            constant = source.constants.get(bound)
            if constant is None or constant.size != 1:
                raise Refusal("its Clip has a bound that is not a constant scalar")
            bounds[index] = constant.item()
    low, high = float(bounds[0]), float(bounds[1])
    if not low <= high:
        raise Refusal(f"its Clip has bounds {low} … {high}")
    return Clamp(low=low, high=high)


def clamp_before(name: str, source: QonnxGraph) -> tuple[onnx.NodeProto | None, Clamp]:
    """The node that outputs ``name``, without a clamp; or, if that is a Relu or Clip, the node
    before it and its clamp."""
    node = source.producer(name)
    if node is None or node.op_type not in ("Relu", "Clip"):
        return node, Clamp()
    return source.producer(node.input[0]), clamp_of(node, source)


def named(node: onnx.NodeProto | None) -> str:
    """The name of a node in a refusal."""
    return "the image" if node is None else node_label(node)


def activation_quantizer(node: onnx.NodeProto, context: Context) -> Quantizer:
    """The parameters of the activation quantizer ``node``, whose codes have one scale.

    Raises:
        InputError: as :meth:`QonnxGraph.quantizer`.
    """
    if not context.source.is_quant(node):
        raise Refusal(f"{node_label(node)} is not a Quant", other=True)
    quantizer = context.source.quantizer(node)
    if quantizer.scale.size != 1:
        raise Refusal("activations must have one scale per tensor")
    return quantizer


def byte_codes(quantizer: Quantizer, clamp: Clamp, layer: str) -> Codes:
    """The uint8 codes of an activation quantizer after a clamp.

    They are named after the layer, or ``layer.wide`` if :func:`clipped` has to follow. The byte of
    0 is 128 for signed codes and 0 for unsigned ones; if a zero point shifts their range, it is the
    byte that makes the least code 0.
    """
    least, most = quantizer.code_range()
    zero_point = SIGNED_ZERO_POINT if quantizer.signed else 0
    if quantizer.zero_point:
        zero_point = max(0, -least)
    if zero_point > BYTE_HIGH or most + zero_point > BYTE_HIGH:
        raise Refusal(
            f"its zero point {quantizer.zero_point} is outside the range of a byte, 0…255"
        )
    low, high = clamp.codes(least, most, quantizer.step)
    codes = Codes(
        name=layer,
        scale=quantizer.step,
        zero_point=zero_point,
        low=low + zero_point,
        high=high + zero_point,
    )
    return codes if codes.fill_a_byte else replace(codes, name=f"{layer}.wide")


def clipped(context: Context, codes: Codes, layer: str) -> Codes:
    """A uint8 Clip to the codes' range, omitted if uint8 itself saturates."""
    if codes.fill_a_byte:
        return codes
    builder = context.builder
    inputs = [codes.name, byte(builder, codes.low), byte(builder, codes.high)]
    return replace(codes, name=builder.add("Clip", inputs, layer))


def scalar(builder: GraphBuilder, value: np.float32) -> str:
    """The name of a float32 scalar constant."""
    return builder.constant(np.float32(value), "s")


def byte(builder: GraphBuilder, value: int) -> str:
    """The name of a uint8 scalar constant."""
    return builder.constant(np.uint8(value), "b")


def quantized_weights(
    name: str, context: Context, *, transposed: bool = False, what: str
) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
    """Integer codes of quantized weights, outputs first, their scales, one per output, and bits.

    ``transposed``: the file has the outputs last; ``what``: what may have a scale of its own.
    """
    found = context.source.stored_codes(name)
    if found is None:
        raise Refusal(
            f"the weights {name!r} are not a quantized constant; quantize them in the network (8 "
            "bits or fewer)"
        )
    codes, scale = found.codes, found.scale
    if transposed:
        codes, scale = np.ascontiguousarray(codes.T), scale.T
    if codes.ndim < 2 or codes.size == 0:
        raise Refusal(f"its weights have the shape {list(codes.shape)}")
    rows = scale.reshape(len(codes), -1)
    if bool((rows != rows[:, :1]).any()):
        raise Refusal(
            f"it has neither one weight scale nor one per {what}: the scales differ within one "
            f"{what}, along its inputs; quantize the weights with one scale per tensor or per "
            f"{what}"
        )
    if codes.min() < -128 or codes.max() > 127:
        raise Refusal(
            f"its weight codes are {codes.min()}…{codes.max()}, but int8 holds -128…127, so "
            f"unsigned weights of {found.bits} bits do not fit; quantize the weights signed, or "
            "to 7 bits"
        )
    return codes, np.ascontiguousarray(rows[:, 0]), found.bits


def int32_bias(
    bias: NDArray[np.float64], grid: NDArray[np.float64], weights: NDArray[np.int64], layer: str
) -> NDArray[np.int32]:
    """round(bias / grid) as int32; ``weights`` are the codes that are summed, outputs first.

    Raises:
        LoweringError: bias and accumulator together may leave int32.
    """
    codes = np.rint(bias / grid)
    largest = np.abs(weights).reshape(len(weights), -1).sum(axis=1) * float(BYTE_HIGH)
    over = np.abs(codes) + largest > 2.0**31 - 1
    if bool(over.any()):
        channel = int(np.argmax(over))
        raise LoweringError(
            f"{layer}: the bias of channel {channel} is {codes[channel]:.3g} steps of the "
            "accumulator, more than int32 holds, because the channel's gain is nearly 0; train "
            "on, or set the gain to 0"
        )
    return codes.astype(np.int32)
