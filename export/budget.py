"""How far logits are from what they are held to, and how far they may be.

ONNX Runtime's all-integer file has no budget: it equals its reference (:mod:`export.parity`). An
engine that sums Q/DQ graphs in float32, or compiles them to integers with multipliers of its own,
lands on the other side of a rounding tie now and then, and one code grows on its way to the logits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate

Logits = NDArray[np.float32]
"""N×classes."""


@dataclass(frozen=True, kw_only=True)
class DepartureBudget:
    """How far logits may be from what they are held to.

    Attributes:
        logits: largest difference of one logit, as a share of the largest |logit| of what they are
            held to; 0 asks for equal numbers, None bounds nothing.
        flips: share of the images that may have another class, 0…1.
    """

    logits: float | None
    flips: float

    def __post_init__(self) -> None:
        if not ((self.logits is None or self.logits >= 0.0) and 0.0 <= self.flips <= 1.0):
            raise InputError(
                f"a budget has a share of the logits, 0 or more, and one of the images, 0 to 1; "
                f"got {self.logits} and {self.flips}"
            )


EQUAL = DepartureBudget(logits=0.0, flips=0.0)
"""The same numbers."""

FLOAT_BUDGET = DepartureBudget(logits=1e-3, flips=0.005)
"""Of a float file against the float network: float32 sums in another order."""


@dataclass(frozen=True, kw_only=True)
class TargetBudget:
    """What one target may differ by.

    Attributes:
        engine: an engine from the file's own reference.
        network: the file's reference from the fake-quantized network.
    """

    engine: DepartureBudget
    network: DepartureBudget


def default_budget(target: str, bits: int, *, exact: bool) -> TargetBudget:
    """The budget of a target's file at an integer bit-width, unless the user sets another.

    docs/export.md has what was measured of trained networks; these allow about twice that.
    TensorRT's streams have half the resolution of the network's, which costs more the coarser the
    codes are that a branch makes of them. In an exact network every value of the other two targets
    is exact in float32.

    Raises:
        InputError: a target without a budget.
    """
    match target:
        case "qonnx":
            network = DepartureBudget(logits=0.05, flips=0.005)
            engine = EQUAL
        case "qcdq":
            network = DepartureBudget(logits=0.05, flips=0.005)
            engine = DepartureBudget(logits=0.05, flips=0.01)
        case "tensorrt":
            flips = 0.05 if bits >= 5 else 0.08 if bits == 4 else 0.2
            network = DepartureBudget(logits=None, flips=flips)
            engine = DepartureBudget(logits=0.1, flips=0.02)
        case _:
            raise InputError(f"the target {target!r} has no budget")
    if exact and target != "tensorrt":
        network = EQUAL
    return TargetBudget(engine=engine, network=network)


@dataclass(frozen=True, kw_only=True)
class Departure:
    """How far one computation was from another on the same images.

    Attributes:
        computed: what was looked at, such as ``openvino-cpu``.
        held_to: what it should have given.
        images: how many.
        largest_logit: largest |logit| of what it is held to.
        largest_difference: of one logit, absolute.
        flips: images with another class.
        budget: what was allowed.
    """

    computed: str
    held_to: str
    images: int
    largest_logit: float
    largest_difference: float
    flips: int
    budget: DepartureBudget

    @property
    def allowed_difference(self) -> float | None:
        """The budget of the logits on these images, absolute."""
        return None if self.budget.logits is None else self.budget.logits * self.largest_logit

    @property
    def failures(self) -> tuple[str, ...]:
        """Why it is over its budget, a sentence each; empty when it is not."""
        found = []
        allowed = self.allowed_difference
        if allowed is not None and not self.largest_difference <= allowed:
            found.append(
                f"logits of {self.computed} differ by up to {self.largest_difference:.6g} from "
                f"{self.held_to}; the budget is {allowed:.6g}, {self.budget.logits:.3%} of the "
                "largest logit"
            )
        if self.flips > self.budget.flips * self.images:
            found.append(
                f"{self.flips:,} of {self.images:,} images have another class in {self.computed} "
                f"than in {self.held_to}; the budget is {self.budget.flips:.2%}"
            )
        return tuple(found)

    def summary(self) -> str:
        """One line for a person."""
        share = self.largest_difference / self.largest_logit if self.largest_logit else 0.0
        logits = "none" if self.budget.logits is None else f"{self.budget.logits:.3%}"
        return (
            f"{self.computed} against {self.held_to}: logits differ by at most {share:.3%} of the "
            f"largest (budget {logits}), {self.flips:,} of {self.images:,} images have another "
            f"class (budget {self.budget.flips:.2%})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "allowed_difference": self.allowed_difference}


def departure(
    computed: tuple[str, Logits], held_to: tuple[str, Logits], budget: DepartureBudget
) -> Departure:
    """Compare two computations of the same images, each with its name.

    Raises:
        InputError: they have other shapes, or a logit is NaN or infinite.
        NothingToEvaluate: there are no images.
    """
    (name, ours), (truth, theirs) = computed, held_to
    if ours.shape != theirs.shape:
        raise InputError(
            f"{name} gives logits of shape {ours.shape}, {truth} of shape {theirs.shape}: they are "
            "not of one network"
        )
    if not len(ours):
        raise NothingToEvaluate("expected at least one image, got none")
    for whose, logits in (computed, held_to):
        if not np.isfinite(logits).all():
            raise InputError(f"{whose} gives logits that are NaN or infinite")
    gap = np.abs(ours.astype(np.float64) - theirs)
    return Departure(
        computed=name,
        held_to=truth,
        images=len(ours),
        largest_logit=float(np.abs(theirs).max()),
        largest_difference=float(gap.max()),
        flips=int(np.count_nonzero(ours.argmax(axis=1) != theirs.argmax(axis=1))),
        budget=budget,
    )
