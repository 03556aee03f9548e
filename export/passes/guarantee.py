"""What a target promises of a finished file, checked on the file's own graph.

A rule's contract speaks of one layer (:mod:`export.passes.rule`); a guarantee speaks of the whole
graph that the rules left behind, whoever made it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import onnx

from export.passes.rule import ContractError
from export.reading import node_label


class Guarantee(ABC):
    """One promise about a whole file."""

    name: str

    @abstractmethod
    def broken_by(self, model: onnx.ModelProto) -> str | None:
        """The first thing that breaks the promise, as a sentence; None where it is kept."""


class OnlyOperators(Guarantee):
    """Every node is one of a list of operators; ``domain::Operator`` outside of ONNX's own."""

    name = "only operators of the target"

    def __init__(self, operators: Iterable[str]) -> None:
        self.operators = frozenset(operators)

    def broken_by(self, model: onnx.ModelProto) -> str | None:
        """The first node of another operator; see :meth:`Guarantee.broken_by`."""
        for node in model.graph.node:
            standard = node.domain in ("", "ai.onnx")
            name = node.op_type if standard else f"{node.domain}::{node.op_type}"
            if name not in self.operators:
                return (
                    f"node {node_label(node)} is none of the operators of this target: "
                    f"{', '.join(sorted(self.operators))}"
                )
        return None


def require_guarantees(
    guarantees: Sequence[Guarantee], model: onnx.ModelProto, what: str
) -> tuple[str, ...]:
    """Check all of them; their names.

    Raises:
        ContractError: the first that is broken, and by which node. ``what`` names the file.
    """
    for guarantee in guarantees:
        broken = guarantee.broken_by(model)
        if broken is not None:
            raise ContractError(f"{what} breaks {guarantee.name!r}: {broken}")
    return tuple(guarantee.name for guarantee in guarantees)
