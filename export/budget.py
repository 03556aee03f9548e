"""The difference between a computation and the one it is compared with, and the allowed difference.

The all-integer files of ONNX Runtime and LiteRT have no budget: they equal their references
(:mod:`export.parity`). An engine that sums Q/DQ graphs in float32, or compiles them to integers
with its own multipliers, sometimes rounds to the other side of a tie, and the difference of one
code grows on its way to the logits. The same holds for fake quantization against the reference of
any file, because its float32 sums round.
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
            requires equal numbers, None sets no bound.
        flips: share of the images that may have another class, 0…1.
        code_flips: where codes are compared, the share of one layer's codes that may differ, 0…1.
        largest_code_flip: by how many codes at most; None sets no bound.
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
"""Equal numbers."""

FLOAT_BUDGET = Budget(logits=1e-3, flips=0.005)
"""Budget of a float file against the float network, which sums float32 in another order."""


@dataclass(frozen=True, kw_only=True)
class FileBudget:
    """The allowed differences of one target's file: of an ``engine`` from the file's own reference,
    and of that reference from the fake-quantized ``network``."""

    engine: Budget
    network: Budget


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """The user's limits in place of a target's own budget; None: the target's own.

    Attributes:
        least_agreement: share of the images that must have the class that the fake-quantized
            network gives.
        code_flips: largest share of one layer's codes that may differ from the network's, of
            ``onnxruntime``.
        engine_logits: largest difference of a logit between an engine and the reference of a file
            with a budget, as a share of the largest logit.
        engine_flips: share of the images that may have another class there.

    No setting allows an exact network to differ.
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
        """The budget with these overrides; required equality is never relaxed."""
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
    """The budget of a target's file at an integer bit-width, for a network with these codes.

    It is about twice what was measured on trained networks (docs/export.md). TensorRT's streams
    have half the resolution of the network's, unless that was trained with int8 codes; the coarser
    the codes that a branch makes of them, the more this costs. In an exact network every value of a
    file with its own codes is exact in float32.

    Raises:
        InputError: a target without a budget.
    """
    match target:
        case "onnxruntime":
            engine, network = EQUAL, Budget(logits=None, flips=0.005, code_flips=0.05)
        case "litert":
            engine, network = EQUAL, Budget(logits=None, flips=0.005, code_flips=0.05)
            if exact:  # only the int16 logits are rounded
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
    """The difference of a ``computed`` result, such as ``openvino-cpu``, from the one it is
    ``held_to`` on the same images: the largest |logit| of the latter, the largest absolute
    difference of one logit, the images with another class, and the budget."""

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
        """Why it exceeds its budget, one sentence each; empty if it does not."""
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
        """A summary of one line."""
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
        InputError: their shapes differ, or a logit is NaN or infinite.
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
