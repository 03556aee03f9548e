"""One call that is being traced, and the draft of the graph that it is written into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from deploy.core.text import shape_in_words
from training.quantize.graph import Kind, Operation, unique
from training.quantize.pointwise import Expression, X, in_float32, name_of, substitute
from training.quantize.recording import path_of

REFUSED = "refused operation"

Taker = Callable[..., Any]
"""Writes a call into the draft: the :class:`Call`, the module where one is called, and the call's
own arguments; gives the :class:`Traced` tensor that stands for the result, or several.  Raises
:class:`Untakeable`."""
ModuleTakers = Mapping[type[nn.Module], Taker]
FunctionTakers = Mapping[str, Taker]


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A tensor of the trace: an operation's output, possibly with a function of it pending."""

    root: str
    expression: Expression = X


class Untakeable(Exception):
    """An operation cannot be quantized; the error has the reason and the cure."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(reason)
        self.reason, self.cure = reason, cure


@dataclass(kw_only=True)
class Draft:
    """The graph as far as it is written.

    Attributes:
        values: the output of each node when the module was run.
        batch: number of images in that run.
        operations: in order.
        traced: the traced tensor of each node so far.
    """

    values: Mapping[fx.Node, Any]
    batch: int
    operations: list[Operation] = field(default_factory=list)
    traced: dict[fx.Node, Any] = field(default_factory=dict)
    _by_name: dict[str, Operation] = field(default_factory=dict)
    _functions: dict[tuple[str, str], str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Operation:
        return self._by_name[name]

    def add(
        self,
        name: str,
        kind: Kind,
        inputs: Sequence[str],
        value: Tensor,
        attributes: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> str:
        """Write an operation whose output was ``value``; returns its name, made unique."""
        name = unique(name, self._by_name)
        operation = Operation(
            name=name,
            kind=kind,
            inputs=tuple(inputs),
            shape=tuple(value.shape[1:]),
            attributes=dict(attributes or {}),
            tensors={k: t.detach().float().clone() for k, t in (tensors or {}).items()},
        )
        self._by_name[name] = operation
        self.operations.append(operation)
        return name

    def materialized(self, tensor: Traced, value: Tensor) -> str:
        """The operation whose output the traced tensor is; a pending function is written first."""
        if tensor.expression == X:
            return tensor.root
        key = (tensor.root, repr(tensor.expression))
        if key not in self._functions:
            name = f"{tensor.root}.{name_of(tensor.expression)}"
            expression = in_float32(tensor.expression)
            self._functions[key] = self.add(
                name, "unary", [tensor.root], value, {"expression": expression}
            )
        return self._functions[key]


@dataclass(frozen=True)
class Call:
    """One call that is being traced: its node, and the value that it returned."""

    draft: Draft
    node: fx.Node
    value: Any

    def tensor(self, x: Any, what: str = "its input") -> str:
        """The name of the operation whose output ``x`` is."""
        if not isinstance(x, Traced):
            raise Untakeable(f"{what} does not depend on the image", "compute it beforehand")
        for node in self.node.all_input_nodes:
            if self.draft.traced.get(node) is x:
                assert isinstance(x, Traced)
                return self.draft.materialized(x, self.draft.values[node])
        # Inside a list argument, or a piece of a tuple: its shape is that of its root.
        return self.draft.materialized(x, torch.empty(1, *self.shape(x.root)))

    @staticmethod
    def refused(name: str) -> bool:
        """Whether the operation stands for one that was refused."""
        return name.startswith(REFUSED)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an operation's output, without the batch."""
        return self.draft[name].shape

    def map_shape(self, name: str) -> tuple[int, int, int]:
        """Channels, height and width of an operation's output."""
        shape = self.shape(name)
        if len(shape) != 3:
            raise Untakeable(f"it reads N×{shape_in_words(shape)}", "give it N×C×H×W")
        return shape[0], shape[1], shape[2]

    def add(
        self,
        kind: Kind,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        *,
        value: Tensor | None = None,
    ) -> Traced:
        """Add an operation; returns the traced tensor of its output."""
        value = self.value if value is None else value
        name = str(self.node.target) if self.node.op == "call_module" else path_of(self.node)
        if not name or (self.node.op != "call_module" and name in self.draft):
            # The first function that a module calls has the module's name; the others have their
            # own name appended.
            name = ".".join(filter(None, [name, kind.replace(" ", "_")]))
        return Traced(root=self.draft.add(name, kind, inputs, value, attributes, tensors))

    def pointwise(self, expression: Expression, x: Any) -> Traced:
        """``expression`` of a traced tensor."""
        if not isinstance(x, Traced):
            raise Untakeable("it does not depend on the image", "compute it beforehand")
        return Traced(root=x.root, expression=substitute(expression, x.expression))


def pair(value: Any) -> list[int]:
    """(height, width) of an argument that is one number for both, or two numbers."""
    found = [int(value)] if isinstance(value, int) else [int(v) for v in value]
    return found * 2 if len(found) == 1 else found


def number(value: Any) -> float | None:
    """The number that an argument or a stored tensor holds; None where it is not one number."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, Tensor) and value.numel() == 1 and value.dim() <= 1:
        return float(value)
    return None
