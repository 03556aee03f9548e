"""What a lowering rule is, and what rules share: codes, the context, errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.device.errors import QadtrError
from export.graph_builder import GraphBuilder
from export.passes.qonnx_graph import QonnxGraph, Quantizer

BYTE_HIGH = 255
SIGNED_ZERO_POINT = 128
"""uint8 zero point of signed codes: code + 128."""


class LoweringError(QadtrError):
    """A layer cannot be lowered to integers; the message names it and each rule's reason."""


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A tensor of uint8 codes in the integer graph: value = scale * (code - zero_point)."""

    name: str
    scale: np.float32
    zero_point: int
    low: int
    high: int


@dataclass(kw_only=True)
class Context:
    """The QONNX graph being read, the integer graph being built, and the codes known so far.

    ``codes`` maps a QONNX tensor to the codes that stand for it; ``storage`` is "low-bit" (INT2 and
    INT4 initializers behind a Cast) or "int8"; ``log`` gets a line per layer.
    """

    source: QonnxGraph
    builder: GraphBuilder
    storage: str
    codes: dict[str, Codes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Refusal:
    """Why a rule does not match, as half a sentence."""

    reason: str


Emit = Callable[[], None]


class Rule(ABC):
    """One way to give a QONNX tensor integer codes."""

    name: str

    @abstractmethod
    def match(self, node: onnx.NodeProto, context: Context) -> Emit | Refusal:
        """Look at ``node`` (whose output wants codes, or is the logits) without changing anything.

        Returns a function that adds the integer nodes and registers the codes, or the reason why
        this rule is not for this node.
        """


def code_bounds(quantizer: Quantizer, *, rectified: bool) -> tuple[int, int, int]:
    """Zero point, lowest and highest uint8 code of an activation quantizer."""
    low, high = quantizer.code_range()
    zero_point = SIGNED_ZERO_POINT if quantizer.signed else 0
    if rectified:
        low = max(low, 0)
    return zero_point, low + zero_point, high + zero_point


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
    clipped = builder.add("Clip", [name, *bounds], output)
    return Codes(
        name=clipped,
        scale=codes.scale,
        zero_point=codes.zero_point,
        low=codes.low,
        high=codes.high,
    )


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
