"""Reading the plan of a file, with every value checked: it can then be built and run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from deploy.core.errors import InputError
from training.quantize.graph import MOVERS
from training.quantize.plan import (
    GATE_SCALE,
    IMAGE_SCALE,
    Codes,
    Plan,
    Step,
    StepKind,
    Weights,
)
from training.quantize.pointwise import check
from training.validated import AtLeast0, AtLeast1, NotNegative, checked, read_settings

Pair = tuple[AtLeast1, AtLeast1]
Border = tuple[AtLeast0, AtLeast0, AtLeast0, AtLeast0]


class _Nothing(TypedDict):
    pass


class _Window(TypedDict):
    kernel: Pair
    stride: Pair
    padding: Border


_Ceiling = Annotated[float, Field(gt=0.0)] | None


class _Rectified(TypedDict):
    rectified: NotRequired[bool]
    ceiling: NotRequired[_Ceiling]


class _Convolution(_Window):
    rectified: bool
    ceiling: _Ceiling
    dilation: Pair
    groups: AtLeast1
    channels: Pair
    weights: Weights
    norm: bool
    epsilon: NotRequired[NotNegative]


class _Table(TypedDict):
    expression: Any


class _Slice(TypedDict):
    start: AtLeast0
    stop: AtLeast1


class _Reshape(TypedDict):
    shape: tuple[AtLeast1, ...]


class _Transpose(TypedDict):
    order: tuple[AtLeast0, ...]


class _Upsample(TypedDict):
    factor: Pair


class _Pad(TypedDict):
    amounts: Border
    channels: tuple[AtLeast0, AtLeast0]
    value: NotRequired[float]


class _Linear(TypedDict):
    features: AtLeast1
    classes: AtLeast1
    identity: NotRequired[bool]


_ATTRIBUTES: Mapping[StepKind, Any] = {
    "pixels": _Nothing,
    "convolution": _Convolution,
    "requantize": _Nothing,
    "add": _Rectified,
    "gate": _Nothing,
    "concat": _Nothing,
    "table": _Table,
    "average pool": _Window,
    "max pool": _Window,
    "slice": _Slice,
    "reshape": _Reshape,
    "transpose": _Transpose,
    "upsample": _Upsample,
    "pad": _Pad,
    "linear": _Linear,
}
_INPUTS: Mapping[str, int] = {"pixels": 0, "add": 2, "gate": 2}
"""How many steps a step reads, by kind; a concatenation any number, the others one."""


class _Unfit(Exception):
    """A step does not match the steps that it reads; the message states what was expected."""


def read_plan(value: Any, where: str) -> Plan:
    """The plan from the JSON of a file, as :meth:`training.quantize.plan.Plan.to_json` returns it.

    Raises:
        InputError: it is not a valid plan; the message states at which step and why.
    """
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: expected a list of steps, got {str(value)[:200]}")
    known: dict[str, Step] = {}
    for index, entry in enumerate(value):
        at = f"{where}: step {index}"
        if not isinstance(entry, dict):
            raise InputError(f"{at}: expected a table, got {str(entry)[:200]}")
        step = read_settings(Step, entry, at)
        at = f"{at}, {step.name!r}"
        checked(_ATTRIBUTES[step.kind], step.attributes, at)
        if step.kind == "table":
            check(step.attributes["expression"], at)
        try:
            _check(step, known)
        except _Unfit as why:
            raise InputError(f"{at}: {why}") from why
        known[step.name] = step
    steps = tuple(known.values())
    kinds = [step.kind for step in steps if step.kind in ("pixels", "linear")]
    if (steps[0].kind, steps[-1].kind) != ("pixels", "linear") or len(kinds) != 2:
        raise InputError(
            f"{where}: expected exactly one step of pixels, as the first, and one "
            "linear, as the last"
        )
    return Plan(steps=steps)


def _check(step: Step, known: Mapping[str, Step]) -> None:
    """Check that name, inputs, shape and codes match the steps before."""
    if step.name in known:
        raise _Unfit("its name occurs twice")
    for name in step.inputs:
        if name not in known:
            raise _Unfit(f"it reads {name!r} before it is computed")
    if step.attributes.get("norm") and "epsilon" not in step.attributes:
        raise _Unfit("its BatchNorm has no epsilon")
    inputs, wanted = [known[name] for name in step.inputs], _INPUTS.get(step.kind, 1)
    if len(inputs) != wanted and not (step.kind == "concat" and inputs):
        raise _Unfit(f"expected {wanted} inputs, got {len(inputs)}")
    shape = _shape(step, [one.shape for one in inputs])
    if step.shape != shape or min(shape) < 1:
        raise _Unfit(f"expected the shape {shape}, got {step.shape}")
    if step.codes is None or step.kind == "linear":
        if (step.codes is None) != (step.kind == "linear"):
            raise _Unfit("expected codes of every step but the last")
        return
    if not _codes_fit(step, step.codes, [one.codes for one in inputs if one.codes is not None]):
        read = "; ".join(str(one.codes) for one in inputs)
        raise _Unfit(f"its codes, {step.codes}, do not fit those that it reads ({read or 'none'})")
    same = [one.codes for one in known.values() if one.codes and one.kind != "requantize"]
    if step.kind != "requantize" and any(
        one.scale == step.codes.scale and one.wide != step.codes.wide for one in same
    ):
        raise _Unfit(f"the scale {step.codes.scale!r} is shared by 8-bit codes and others")


def _shape(step: Step, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of the step's output for inputs of these shapes."""
    found = step.attributes
    match step.kind:
        case "pixels" if len(step.shape) == 3:
            return step.shape
        case "requantize" | "table":
            return shapes[0]
        case "reshape" if math.prod(found["shape"]) == math.prod(shapes[0]):
            return tuple(found["shape"])
        case "transpose" if sorted(found["order"]) == list(range(len(shapes[0]) + 1)):
            if found["order"][0] == 0:
                return tuple(shapes[0][axis - 1] for axis in found["order"][1:])
        case "linear" if found["features"] == math.prod(shapes[0]):
            return (found["classes"],)
        case _ if shapes and all(len(shape) == 3 for shape in shapes):
            return _map_shape(step, shapes)
    raise _Unfit(f"its attributes do not fit what it reads, {' and '.join(map(str, shapes))}")


def _map_shape(step: Step, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of the output of a step that reads C×H×W."""
    found, (channels, *sides) = step.attributes, shapes[0]
    match step.kind:
        case "convolution":
            (inside, out), groups = found["channels"], found["groups"]
            divide = inside == channels and not inside % groups and not out % groups
            alone = found["kernel"] == [1, 1] and groups == inside == out
            if divide and (alone or found["weights"] != "map"):
                return out, *_windows(found, sides)
        case "average pool" | "max pool":
            return channels, *_windows(found, sides)
        case "add" if shapes[0] == shapes[1]:
            return shapes[0]
        case "gate" if shapes[1][0] == channels:
            try:
                return np.broadcast_shapes(*shapes)
            except ValueError as error:
                raise _Unfit(f"a gate of {shapes[1]} does not fit {shapes[0]}") from error
        case "concat" if all(shape[1:] == shapes[0][1:] for shape in shapes):
            return sum(shape[0] for shape in shapes), *sides
        case "slice" if found["start"] < found["stop"] <= channels:
            return found["stop"] - found["start"], *sides
        case "upsample":
            return channels, *(n * factor for n, factor in zip(sides, found["factor"], strict=True))
        case "pad":
            top, left, bottom, right = found["amounts"]
            return (
                channels + sum(found["channels"]),
                sides[0] + top + bottom,
                sides[1] + left + right,
            )
    raise _Unfit(f"its attributes do not fit what it reads, {' and '.join(map(str, shapes))}")


def _windows(found: Mapping[str, Any], sides: Sequence[int]) -> list[int]:
    """Height and width after windows; 0 where no window fits."""
    after = []
    for axis, side in enumerate(sides):
        reach = found.get("dilation", (1, 1))[axis] * (found["kernel"][axis] - 1) + 1
        before, behind = found["padding"][axis], found["padding"][axis + 2]
        if "dilation" not in found and max(before, behind) >= found["kernel"][axis]:
            raise _Unfit("a window of its pool covers only padding")
        after.append(max(0, (side + before + behind - reach) // found["stride"][axis] + 1))
    return after


def _codes_fit(step: Step, own: Codes, read: Sequence[Codes]) -> bool:
    constant = {IMAGE_SCALE: (True, True), GATE_SCALE: (False, True)}
    if constant.get(own.scale, (own.signed, own.wide)) != (own.signed, own.wide):
        return False
    match step.kind:
        case "pixels":
            return own == Codes(scale=IMAGE_SCALE, signed=True, wide=True)
        case "requantize":
            learned = own.scale not in constant and not own.pooled
            return learned and read[0].wide and own == Codes(**{**vars(read[0]), "wide": False})
        case "average pool" if own.pooled:
            there = not read[0].pooled and own.scale == read[0].scale and read[0].wide and own.wide
            return there and own.pooled == math.prod(step.attributes["kernel"])
        case kind if kind in MOVERS:
            return own == read[0]
    if own.pooled:
        return False
    match step.kind:
        case "concat":
            return all(one == own for one in read)
        case "add":
            return all(one.scale == own.scale and one.wide for one in (own, *read))
        case "gate":
            return read[0].scale == own.scale and read[1].scale == GATE_SCALE and own.wide
    return True
