"""What a lowering rule is, and what rules share: codes, the context, errors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.errors import QadtrError
from export.graph_builder import GraphBuilder
from export.passes.qonnx_graph import QonnxGraph, Quantizer, attributes_of

BYTE_HIGH = 255
SIGNED_ZERO_POINT = 128
"""uint8 zero point of signed codes: code + 128."""


class LoweringError(QadtrError):
    """A layer cannot be lowered to integers; the message names it and each rule's reason."""


class ContractError(LoweringError):
    """A pass did not keep what it promises: a fault of the pass, not of the network."""


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A tensor of codes: value = scale * (code - zero_point), code in ``low`` … ``high``.

    ``name`` is the tensor that stands for them in the graph being built: the codes themselves
    (uint8) in the all-integer graph, their values (float32) in a Q/DQ graph.
    """

    name: str
    scale: np.float32
    zero_point: int
    low: int
    high: int


@dataclass(kw_only=True)
class Context:
    """The QONNX graph being read, the integer graph being built, and the codes known so far.

    ``codes`` maps a QONNX tensor to the codes that stand for it; ``storage`` is "low-bit" (INT2 and
    INT4 initializers behind a Cast) or "int8"; ``tune`` is what the kernels are chosen for
    (:mod:`export.passes.kernels`); ``code_range`` is what the target's types of codes can hold;
    ``log`` gets a line per layer.
    """

    source: QonnxGraph
    builder: GraphBuilder
    storage: str
    tune: str = "any"
    code_range: tuple[int, int] = (0, BYTE_HIGH)
    codes: dict[str, Codes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def note(self, rule: Rule, layer: str, text: str) -> None:
        """Say in the log what ``rule`` made of ``layer``."""
        self.log.append(f"{layer}: {text} [{rule.name}]")


@dataclass(frozen=True)
class Refusal:
    """Why a rule does not match, as half a sentence."""

    reason: str


Emit = Callable[[], None]


class Place(Enum):
    """The nodes of a QONNX graph at which rules are asked."""

    QUANTIZER = "an activation quantizer"
    CODES = "a node that moves or chooses codes"
    LOGITS = "the node that gives the logits"


class Rule(ABC):
    """One pass over the layers of one kind: a way to give a QONNX tensor its codes.

    The driver asks the rules of a target in their order at every node of their ``place``. The
    contract: :meth:`match` is what the rule requires of the layer, and changes nothing; what it
    returns is applied at once; :meth:`ensures` is checked behind it.
    """

    name: str
    place: Place = Place.QUANTIZER

    @abstractmethod
    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Look at ``node`` (whose output wants codes, or is the logits) without changing anything.

        Returns a function that adds the target's nodes and registers the codes, or the reason why
        this rule is not for this node.
        """

    def ensures(self, node: onnx.NodeProto, context: Context) -> None:
        """Check what every rule promises: the layer has codes that the target's types can hold.

        Raises:
            ContractError: it has none, or others.
        """
        if self.place is Place.LOGITS:
            return
        layer = node.output[0]
        codes = context.codes.get(layer)
        if codes is None:
            raise ContractError(f"{layer}: the rule {self.name!r} matched and gave no codes")
        low, high = context.code_range
        if not (low <= codes.low <= codes.high <= high and low <= codes.zero_point <= high):
            raise ContractError(
                f"{layer}: the rule {self.name!r} gave codes {codes.low}…{codes.high} with zero "
                f"point {codes.zero_point}; the target holds {low}…{high}"
            )
        if not (np.isfinite(codes.scale) and codes.scale > 0):
            raise ContractError(f"{layer}: the rule {self.name!r} gave the scale {codes.scale}")


@dataclass(frozen=True, kw_only=True)
class Clamp:
    """What a Relu or Clip before a quantizer does: values stay in ``low`` … ``high``."""

    low: float = -math.inf
    high: float = math.inf


def clamp_before(name: str, source: QonnxGraph) -> tuple[onnx.NodeProto | None, Clamp] | Refusal:
    """The node that gives ``name`` and no clamp; or that before a Relu or Clip, and its clamp."""
    node = source.producer(name)
    if node is None or node.op_type not in ("Relu", "Clip") or node.domain not in ("", "ai.onnx"):
        return node, Clamp()
    below = source.producer(node.input[0])
    if node.op_type == "Relu":
        return below, Clamp(low=0.0)
    attributes = attributes_of(node)
    bounds = [attributes.get("min", -math.inf), attributes.get("max", math.inf)]
    for index, bound in enumerate(node.input[1:3]):
        if bound:
            constant = source.constants.get(bound)
            if constant is None or constant.size != 1:
                return Refusal("its Clip has a bound that is no constant scalar")
            bounds[index] = constant.item()
    low, high = float(bounds[0]), float(bounds[1])
    if not low <= high:
        return Refusal(f"its Clip has bounds {low} … {high}")
    return below, Clamp(low=low, high=high)


def code_bounds(quantizer: Quantizer, clamp: Clamp = Clamp()) -> tuple[int, int, int]:
    """Zero point, lowest and highest uint8 code of an activation quantizer behind a clamp.

    Rounding and division by a positive scale are monotone, so clamping values to a … b before the
    quantizer is clamping codes to round(a / s) … round(b / s) behind it, in float32 as well.
    """
    low, high = quantizer.code_range()
    zero_point = SIGNED_ZERO_POINT if quantizer.signed else 0
    scale = np.float32(quantizer.scale.item())
    for_low = np.clip(np.rint(np.float32(clamp.low) / scale), low, high)
    for_high = np.clip(np.rint(np.float32(clamp.high) / scale), low, high)
    return zero_point, int(for_low) + zero_point, int(for_high) + zero_point


def activation_quantizer(node: onnx.NodeProto, context: Context) -> Quantizer | Refusal:
    """The parameters of the activation quantizer ``node``, whose codes have one scale.

    Raises:
        InputError: as :meth:`QonnxGraph.quantizer`.
    """
    quantizer = context.source.quantizer(node)
    if quantizer.scale.size != 1:
        return Refusal("activations must have one scale per tensor")
    return quantizer


def scalar(builder: GraphBuilder, value: np.float32) -> str:
    """The name of a float32 scalar constant."""
    return builder.constant(np.float32(value), "s")


def byte(builder: GraphBuilder, value: int) -> str:
    """The name of a uint8 scalar constant."""
    return builder.constant(np.uint8(value), "b")


def clip_codes(context: Context, name: str, codes: Codes, output: str) -> Codes:
    """A uint8 Clip to the codes' range behind ``name``, left out where uint8 itself saturates."""
    if codes.low <= 0 and codes.high >= BYTE_HIGH:
        return codes
    builder = context.builder
    bounds = [byte(builder, codes.low), byte(builder, codes.high)]
    return replace(codes, name=builder.add("Clip", [name, *bounds], output))


def int32_bias(
    bias: NDArray[np.float64], grid: NDArray[np.float64], largest: NDArray[np.float64], layer: str
) -> NDArray[np.int32]:
    """round(bias / grid) as int32; ``largest`` bounds |accumulator| without the bias, per channel.

    Raises:
        LoweringError: bias and accumulator together may leave int32.
    """
    codes = np.rint(bias / grid)
    over = np.abs(codes) + largest > 2.0**31 - 1
    if bool(over.any()):
        channel = int(np.argmax(over))
        raise LoweringError(
            f"{layer}: the bias of channel {channel} is {codes[channel]:.3g} steps of the "
            "accumulator, more than int32 holds; the channel's BatchNorm gain is nearly 0: "
            "train on, or set the gain to 0"
        )
    return codes.astype(np.int32)
