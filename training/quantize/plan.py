"""The plan of a quantized network: which tensors hold codes, of which width, sharing which scale.

A plan is data: with the tensors beside it (:mod:`training.checkpoint`) it is the whole network, and
training, export, attacks and bundles need nothing of the code that the float network was made from.

Every step gives one tensor of codes.  A tensor's codes have the bit-width b of the network
("switched"), or 8 bits at every b ("wide").  Wide are the image, whatever meets in a sum or a
concatenation (a *stream*: one scale for all that meet), what is read at more than one place or by a
function, a gate, an average or the last layer, and what a convolution gives without a rectifier.
A convolution of switched weights that reads a wide tensor reads it requantized to b bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from deploy.core.errors import InputError
from training.quantize.pointwise import check as check_expression

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
STEP_KINDS: tuple[StepKind, ...] = get_args(StepKind)

Weights = Literal["switched", "wide", "map"]
"""Of a convolution: b bits, 8 bits, or the constant 1 (a normalization that stands alone)."""

IMAGE_SCALE, GATE_SCALE = "image", "gate"
"""Scales that are constants: 2^-6 of the normalized bytes, and 1/255 of a gate, so that a product
with a gate is never halfway between two codes."""


@dataclass(frozen=True, kw_only=True)
class Codes:
    """What a tensor's codes are.

    Attributes:
        scale: name of its scale; tensors of one name share it. ``image`` and ``gate`` are constant.
        signed: codes -2^(b-1) … 2^(b-1) - 1 instead of 0 … 2^b - 1.
        wide: 8 bits at every bit-width.
        pooled: 0, or the number of positions whose average it is: the scale is then that of the
            named one times (n + 1) / n for an even n, so that no average is halfway between codes.
    """

    scale: str
    signed: bool
    wide: bool
    pooled: int = 0


@dataclass(frozen=True, kw_only=True)
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
            linear: features, classes
    """

    name: str
    kind: StepKind
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
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

    @property
    def _by_name(self) -> Mapping[str, Step]:
        found = self.__dict__.get("_index")
        if found is None:
            found = {one.name: one for one in self.steps}
            object.__setattr__(self, "_index", found)
        return found

    def readers(self, name: str) -> tuple[Step, ...]:
        """The steps that read the output of ``name``, in order."""
        return tuple(one for one in self.steps if name in one.inputs)

    def to_json(self) -> list[dict[str, Any]]:
        """The plan as JSON values."""
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

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """The plan of a file, checked.

        Raises:
            InputError: it is no plan; says at which step and why.
        """
        if not isinstance(value, list) or not value:
            raise InputError(f"{where}: expected a list of steps, got {type(value).__name__}")
        steps: list[Step] = []
        known: dict[str, Step] = {}
        for index, entry in enumerate(value):
            at = f"{where}: step {index}"
            step = _read_step(entry, at)
            missing = [name for name in step.inputs if name not in known]
            if step.name in known or missing:
                wrong = f"reads {missing[0]!r} before it is made" if missing else "is there twice"
                raise InputError(f"{at}: {step.name!r} {wrong}")
            known[step.name] = step
            steps.append(step)
        if steps[0].kind != "pixels" or steps[-1].kind != "linear":
            raise InputError(f"{where}: expected pixels as the first step and linear as the last")
        return cls(steps=tuple(steps))


def _read_step(entry: Any, at: str) -> Step:
    wanted = {"name", "kind", "inputs", "shape", "codes", "attributes"}
    if not isinstance(entry, dict) or set(entry) != wanted:
        raise InputError(f"{at}: expected an object with {', '.join(sorted(wanted))}")
    if entry["kind"] not in STEP_KINDS:
        raise InputError(f"{at}: unknown kind {entry['kind']!r}; known: {', '.join(STEP_KINDS)}")
    if not isinstance(entry["name"], str) or not isinstance(entry["attributes"], dict):
        raise InputError(f"{at}: expected a name and attributes")
    for key, kind in (("inputs", str), ("shape", int)):
        if not isinstance(entry[key], list) or not all(isinstance(x, kind) for x in entry[key]):
            raise InputError(f"{at}: expected {key} as a list of {kind.__name__}")
    codes = entry["codes"]
    if codes is not None:
        types = {"scale": str, "signed": bool, "wide": bool, "pooled": int}
        if not isinstance(codes, dict) or {k: type(v) for k, v in codes.items()} != types:
            raise InputError(f"{at}: expected codes with {', '.join(types)}")
        codes = Codes(**codes)
    if entry["kind"] == "table":
        check_expression(entry["attributes"].get("expression"), at)
    return Step(
        name=entry["name"],
        kind=entry["kind"],
        inputs=tuple(entry["inputs"]),
        shape=tuple(entry["shape"]),
        codes=codes,
        attributes=entry["attributes"],
    )
