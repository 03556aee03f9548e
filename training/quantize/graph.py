"""A float network as a graph of the few operations that quantization knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor

from deploy.core.errors import InputError
from training.quantize.pointwise import evaluate

Kind = Literal[
    "image",
    "convolution",
    "norm",
    "unary",
    "add",
    "gate",
    "concat",
    "average pool",
    "max pool",
    "slice",
    "reshape",
    "transpose",
    "upsample",
    "pad",
    "linear",
]

MOVERS: tuple[Kind, ...] = ("max pool", "slice", "reshape", "transpose", "upsample", "pad")
"""Operations that choose or move numbers: codes go through them as they are."""

_GRID = np.concatenate([np.linspace(-64.0, 64.0, 4097), [-1e3, 1e3]])


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation; its output has the same name.

    Attributes:
        name: unique; the path of the module where the operation is one.
        kind: what it does.
        inputs: names of the operations that it reads, in order.
        shape: of its output without the batch, such as (C, H, W).
        attributes: JSON values, by kind:

            convolution: stride, dilation (2 each), padding (top, left, bottom, right), groups
            unary: expression (:mod:`training.quantize.pointwise`)
            average pool: kernel, stride, padding; max pool: the same
            norm: epsilon; fixed: whether it is a gain and a bias without statistics
            slice: start, stop of the channels
            reshape: shape, without the batch; transpose: order, of all dimensions
            upsample: factor (2); pad: amounts (top, left, bottom, right)
        tensors: float32, by role: weight and bias of a convolution or linear layer; gain, bias,
            mean, variance of a norm.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FloatGraph:
    """The operations in the order of the forward pass, the image first, the logits last."""

    operations: tuple[Operation, ...]


def value_range(name: str, by_name: Mapping[str, Operation]) -> tuple[float, float]:
    """The least and largest value that an operation's output can have, as far as known."""
    one = by_name[name]
    if one.kind in MOVERS or one.kind == "average pool":
        low, high = value_range(one.inputs[0], by_name)
        return (
            (min(low, 0.0), max(high, 0.0)) if one.kind in ("pad", "average pool") else (low, high)
        )
    if one.kind == "unary":
        low, high = value_range(one.inputs[0], by_name)
        values = evaluate(one.attributes["expression"], np.clip(_GRID, low, high))
        return float(values.min()), float(values.max())
    if one.kind in ("convolution", "add") and one.attributes.get("rectified"):
        ceiling = one.attributes.get("ceiling")
        return 0.0, np.inf if ceiling is None else float(ceiling)
    if one.kind in ("add", "concat", "gate"):
        ranges = [value_range(source, by_name) for source in one.inputs]
        least = 0.0 if all(low >= 0.0 for low, _ in ranges) else -np.inf
        most = max(high for _, high in ranges) if one.kind == "concat" else np.inf
        return least, most
    return -np.inf, np.inf


def is_gate(name: str, by_name: Mapping[str, Operation]) -> bool:
    """Whether an operation's output is known to be in 0…1."""
    low, high = value_range(name, by_name)
    return low >= 0.0 and high <= 1.0


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One operation that cannot be quantized.

    Attributes:
        path: of the module that it is in; "" for the outermost.
        operation: its class or function.
        reason: why, as half a sentence.
        cure: what to do.
    """

    path: str
    operation: str
    reason: str
    cure: str

    def __str__(self) -> str:
        return f"{self.path or '(network)'}: {self.operation}: {self.reason}; {self.cure}"


class Refused(InputError):
    """A network cannot be quantized; ``refusals`` lists every reason, the message one per line.

    Attributes:
        refusals: one entry per operation: its module's ``path``, ``operation``, ``reason`` and
            ``cure``.

    Example:
        >>> normalized = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.LayerNorm([8, 14, 22]), nn.Flatten(), nn.Linear(2464, 3))
        >>> try:
        ...     qadtr.quantize(normalized, torch.zeros(1, 3, 16, 24))
        ... except qadtr.Refused as error:
        ...     error.refusals[0].path, error.refusals[0].operation
        ('1', 'LayerNorm')
    """

    def __init__(self, refusals: tuple[Refusal, ...]) -> None:
        self.refusals = refusals
        count = len(refusals)
        lines = "".join(f"\n  {one}" for one in refusals)
        operations = "operation" if count == 1 else "operations"
        super().__init__(f"the network has {count} {operations} that cannot be quantized:{lines}")


def unique(name: str, taken: Collection[str]) -> str:
    """The name, with a number where it is already taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
