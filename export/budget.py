"""The distance of a computation from the one it is compared with, and its allowed distance.

ONNX Runtime's all-integer file and LiteRT's have none: they equal their references
(:mod:`export.parity`). An
engine that sums Q/DQ graphs in float32, or compiles them to integers with multipliers of its own,
lands on the other side of a rounding tie now and then, and one code grows on its way to the logits.
So does fake quantization, whose float32 sums round, against the reference of any file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate
from training.network_spec import CodesRecipe

Logits = NDArray[np.float32]
"""N×classes."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The allowed distance of one computation from the one it is compared with.

    Attributes:
        logits: largest difference of one logit, as a share of the largest |logit| of the latter; 0
            requires equal numbers, None bounds nothing.
        flips: share of the images that may have another class, 0…1.
        code_flips: where codes are compared, the share of one layer's codes that may differ, 0…1.
        largest_code_flip: by how many codes at most; None bounds nothing.
    """

    logits: float | None
    flips: float
    code_flips: float = 1.0
    largest_code_flip: int | None = None

    def __post_init__(self) -> None:
        shares = (self.flips, self.code_flips)
        if not ((self.logits is None or self.logits >= 0.0) and all(0 <= s <= 1 for s in shares)):
            raise InputError(
                "expected a budget with a share of the logits of 0 or more and shares of the "
                f"images and codes of 0 to 1, got {self.logits}, {self.flips} and "
                f"{self.code_flips}"
            )


EQUAL = Budget(logits=0.0, flips=0.0, code_flips=0.0, largest_code_flip=0)
"""The same numbers."""

FLOAT_BUDGET = Budget(logits=1e-3, flips=0.005)
"""Of a float file against the float network: float32 sums in another order."""


@dataclass(frozen=True, kw_only=True)
class FileBudget:
    """What one target's file may differ by: an ``engine`` from the file's own reference, and that
    reference from the fake-quantized ``network``."""

    engine: Budget
    network: Budget


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the user allows in place of a target's own budget; None: the target's own.

    Attributes:
        least_agreement: share of the images that must have the class that the fake-quantized
            network gives.
        code_flips: largest share of one layer's codes that may differ from the network's, of
            ``onnxruntime``.
        engine_logits: largest difference of a logit between an engine and the reference of a file
            with a budget, as a share of the largest logit.
        engine_flips: share of the images that may have another class there.

    An exact network may differ nowhere, whatever these settings are.
    """

    least_agreement: float | None = None
    code_flips: float | None = None
    engine_logits: float | None = None
    engine_flips: float | None = None

    def __post_init__(self) -> None:
        for name in ("least_agreement", "code_flips"):
            share = getattr(self, name)
            if share is not None and not 0.0 <= share <= 1.0:
                raise InputError(
                    f"expected {name.replace('_', ' ')} as a share of 0 to 1, got {share}"
                )

    def of(self, budget: FileBudget) -> FileBudget:
        """The budget with what is set here; equality is never loosened."""
        flips = None if self.least_agreement is None else 1.0 - self.least_agreement
        return FileBudget(
            engine=_changed(budget.engine, logits=self.engine_logits, flips=self.engine_flips),
            network=_changed(budget.network, flips=flips, code_flips=self.code_flips),
        )


def _changed(budget: Budget, **changes: float | None) -> Budget:
    if budget == EQUAL:
        return budget
    set_here = {name: value for name, value in changes.items() if value is not None}
    return replace(budget, **set_here)  # type: ignore[arg-type]


def default_budget(
    target: str, bits: int, *, exact: bool, codes: CodesRecipe = "uint8"
) -> FileBudget:
    """The budget of a target's file at an integer bit-width, of a network of such codes.

    docs/export.md has what was measured of trained networks; these allow about twice that.
    TensorRT's streams have half the resolution of the network's, unless that was trained with int8
    codes, which costs more the coarser the codes are that a branch makes of them. In an exact
    network every value of a file with its own codes is exact in float32.

    Raises:
        InputError: a target without a budget.
    """
    match target:
        case "onnxruntime":
            engine, network = EQUAL, Budget(logits=None, flips=0.005, code_flips=0.05)
        case "litert":
            engine, network = EQUAL, Budget(logits=None, flips=0.005, code_flips=0.05)
            if exact:  # but for the int16 logits, which round
                network = replace(network, flips=0.005, code_flips=0.0, largest_code_flip=0)
        case "qonnx":
            engine, network = EQUAL, Budget(logits=0.05, flips=0.005)
        case "qcdq":
            engine, network = Budget(logits=0.05, flips=0.01), Budget(logits=0.05, flips=0.005)
        case "tensorrt" if codes == "int8":
            engine, network = Budget(logits=0.1, flips=0.02), Budget(logits=0.05, flips=0.005)
        case "tensorrt":
            flips = 0.05 if bits >= 5 else 0.08 if bits == 4 else 0.2
            engine, network = Budget(logits=0.1, flips=0.02), Budget(logits=None, flips=flips)
        case _:
            raise InputError(f"the target {target!r} has no budget")
    own = codes == "int8" if target == "tensorrt" else target != "litert"
    if exact and own:
        network = EQUAL
    return FileBudget(engine=engine, network=network)


@dataclass(frozen=True, kw_only=True)
class Departure:
    """How far what was ``computed``, such as ``openvino-cpu``, was from what it is ``held_to`` on
    the same images: the largest |logit| of the latter, the largest difference of one logit,
    absolute, the images with another class, and what was allowed."""

    computed: str
    held_to: str
    images: int
    largest_logit: float
    largest_difference: float
    flips: int
    budget: Budget

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
        budget = {"logits": self.budget.logits, "flips": self.budget.flips}
        allowed = self.allowed_difference
        return {**asdict(self), "budget": budget, "allowed_difference": allowed}


def departure(
    computed: tuple[str, Logits], held_to: tuple[str, Logits], budget: Budget
) -> Departure:
    """Compare two computations of the same images, each with its name.

    Raises:
        InputError: they have other shapes, or a logit is NaN or infinite.
        NothingToEvaluate: there are no images.
    """
    (name, ours), (truth, theirs) = computed, held_to
    if ours.shape != theirs.shape:
        raise InputError(
            f"{name} gives logits of shape {ours.shape}, {truth} of shape {theirs.shape}: they "
            "do not belong to the same network"
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
