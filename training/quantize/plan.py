"""The plan of a quantized network: which tensors hold codes, of which width, sharing which scale.

A plan is data: together with the stored tensors (:mod:`training.checkpoint`) it is the whole
network.  Training, export, attacks and bundles do not need the code of the float network.

Every step outputs one tensor of codes.  A tensor's codes have the bit-width b of the network
("switched"), or 8 bits at every b ("wide").  These tensors are wide: the image; the operands of a
sum or a concatenation (a *stream*: all of them share one scale); tensors that are read at more than
one place, or by a function, a gate, an average or the last layer; and the output of a convolution
without a rectifier.  A convolution with switched weights that reads a wide tensor reads it
requantized to b bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from deploy.core.table import Table
from deploy.core.text import shape_in_words
from training.validated import AtLeast0, AtLeast1, validated

StepKind = Literal[
    "pixels",
    "convolution",
    "requantize",
    "add",
    "gate",
    "concat",
    "table",
    "average pool",
    "max pool",
    "slice",
    "reshape",
    "transpose",
    "upsample",
    "pad",
    "linear",
]

Weights = Literal["switched", "wide", "map"]
"""Of a convolution: b bits, 8 bits, or the constant 1 (a normalization that stands alone)."""

IMAGE_SCALE, GATE_SCALE = "image", "gate"
"""Scales that are constants: 2^-6 of the normalized bytes, and 1/255 (in int8 codes 1/127) of a
gate, so that a product with a gate is never halfway between two codes."""


@validated()
class Codes:
    """The codes of a tensor.

    Attributes:
        scale: name of its scale; tensors with the same name share it. ``image`` and ``gate`` are
            constant.
        signed: codes -2^(b-1) … 2^(b-1) - 1 instead of 0 … 2^b - 1.
        wide: 8 bits at every bit-width.
        pooled: 0, or the number n of positions whose average the tensor is: its scale is then the
            named one times (n + 1) / n for an even n, so that no average is halfway between codes.
    """

    scale: str
    signed: bool
    wide: bool
    pooled: AtLeast0 = 0


@validated()
class Step:
    """One step of the forward pass.

    Attributes:
        name: unique; a convolution or linear layer has the path of its module.
        kind: what it does.
        inputs: names of the steps that it reads.
        shape: of its output without the batch: (C, H, W); (classes,) for the last.
        codes: of its output; None for the logits.
        attributes: JSON values, as :class:`training.quantize.graph.Operation` has them, and

            convolution: kernel, channels (in, out), weights (:data:`Weights`), norm (bool; else a
            bias alone), rectified, ceiling
            add: rectified, ceiling; table: expression; pad: value, what the border holds
            linear: features, classes, identity (bool: it was added to end the network)
    """

    name: Annotated[str, Field(min_length=1)]
    kind: StepKind
    inputs: tuple[str, ...]
    shape: Annotated[tuple[AtLeast1, ...], Field(min_length=1)]
    codes: Codes | None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All steps in the order of the forward pass, ``pixels`` first, ``linear`` last."""

    steps: tuple[Step, ...]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        channels, height, width = self.steps[0].shape
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.steps[-1].shape[0]

    def step(self, name: str) -> Step:
        """The step of this name; ``KeyError`` where there is none."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Step]:
        return {one.name: one for one in self.steps}

    def readers(self, name: str) -> tuple[Step, ...]:
        """The steps that read the output of ``name``, in order."""
        return tuple(one for one in self.steps if name in one.inputs)

    def to_json(self) -> list[dict[str, Any]]:
        """The plan as JSON values, which :func:`training.quantize.plan_file.read_plan` takes."""
        return [
            {
                "name": one.name,
                "kind": one.kind,
                "inputs": list(one.inputs),
                "shape": list(one.shape),
                "codes": None if one.codes is None else dataclasses.asdict(one.codes),
                "attributes": dict(one.attributes),
            }
            for one in self.steps
        ]


_WEIGHT_BITS = {"switched": "b", "wide": "8", "map": "gain"}


def plan_table(plan: Plan) -> Table:
    """A table with a row for each step; b is the network's bit-width."""
    rows = []
    for one in plan.steps:
        codes, weights = one.codes, ""
        if one.kind in ("convolution", "linear"):
            weights = _WEIGHT_BITS[one.attributes.get("weights", "wide")]
        rows.append(
            [
                one.name,
                one.kind,
                shape_in_words(one.shape),
                weights,
                "logits" if codes is None else "8" if codes.wide else "b",
                "" if codes is None else "signed" if codes.signed else "unsigned",
                "" if codes is None else codes.scale,
            ]
        )
    return Table(columns=["step", "operation", "shape", "weights", "codes", "", "scale"], rows=rows)
