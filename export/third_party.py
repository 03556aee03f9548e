"""A lowered file against its source, run independently (:mod:`export.source_run`).

Certificate and parity show that the engine computes what the lowered file says. They do not show
that the file computes what its source does, so the source itself is run on the same images.

Not all codes equal the source's: it sums in float32, and the lowering rounds its float biases to
the accumulator's step.  The difference of one code grows on its way through a deep network, so each
layer is checked separately: the file's numpy reference computes it from the *source's* codes before
it.  A wrong lowering is then far outside the bounds here, at the layer that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import QadtrError
from export.budget import Budget, Departure, departure
from export.passes.qonnx_graph import QonnxGraph
from export.passes.rule import Codes
from export.reference.network import Reference
from export.source_run import NAME, SourceRun

LAYER = "its own layer, from the source's codes"

BUDGET = Budget(logits=0.02, flips=1.0, code_flips=0.03, largest_code_flip=1)
"""Budget of a layer computed from the source's codes; ties of power-of-two scales differ most."""

FEW = 8
"""This many codes of a layer may always differ: a small layer is too small a sample."""

HALVED = 0.76
"""Allowed difference in steps of twice the source's, as TensorRT's streams have: half of such a
step and half of the source's are rounding."""

IMAGES = 4
"""Number of noise images, if none are given."""


class SourceError(QadtrError):
    """A lowered file does not compute what its source computes."""


@dataclass(kw_only=True)
class LayerDifference:
    """Codes of one layer, computed from the source's, that differ from the source's.

    Attributes:
        layer: its name in both files.
        codes: compared.
        different: how many differ.
        beyond: how many differ by more than one code.
        largest: by how many codes at most.
    """

    layer: str
    codes: int = 0
    different: int = 0
    beyond: int = 0
    largest: int = 0

    @property
    def share(self) -> float:
        """The share of the codes, 0…1."""
        return self.different / self.codes if self.codes else 0.0

    def add(self, gap: NDArray[np.floating[Any]]) -> None:
        """Count the differences of some codes."""
        self.codes += int(gap.size)
        self.different += int(np.count_nonzero(gap))
        self.beyond += int(np.count_nonzero(gap > 1))
        self.largest = max(self.largest, int(gap.max(initial=0)))


@dataclass(frozen=True, kw_only=True)
class SourceComparison:
    """A lowered file against its source.

    Attributes:
        layers: each from the source's own codes.
        last: the logits, likewise.
        logits: the engine's against the source's, of the whole network.
        budget: of a layer.
    """

    layers: tuple[LayerDifference, ...]
    last: Departure
    logits: Departure
    budget: Budget

    @property
    def worst(self) -> LayerDifference | None:
        """The layer with the largest share of different codes; None if no code differs."""
        found = max(self.layers, key=lambda one: one.share, default=None)
        return found if found is not None and found.different else None

    @property
    def failures(self) -> tuple[str, ...]:
        """Why this is not the source's network, one sentence each."""
        found = [*self.logits.failures, *self.last.failures]
        for one in self.layers:
            few = max(FEW, self.budget.code_flips * one.codes)
            beyond = max(FEW, self.budget.code_flips * one.codes / 10)
            if one.different > few or one.beyond > beyond:
                found.append(
                    f"{one.different:,} of {one.codes:,} codes of {one.layer!r} "
                    f"({one.share:.1%}) differ from the source's by up to {one.largest} when "
                    "computed from the source's own input codes; the budget is "
                    f"{self.budget.code_flips:.1%}"
                )
        return tuple(found)

    def required(self) -> SourceComparison:
        """Return this, or raise SourceError with all failures."""
        if self.failures:
            raise SourceError(
                "the lowered file is not equivalent to its source: " + "; ".join(self.failures)
            )
        return self

    def summary(self) -> str:
        """A summary of two lines."""
        codes = sum(one.codes for one in self.layers)
        different = sum(one.different for one in self.layers)
        text = (
            f"layer by layer against the source: {different:,} of {codes:,} codes differ in "
            f"{len(self.layers)} layers"
        )
        if self.worst is not None:
            text += f", most in {self.worst.layer!r} ({self.worst.share:.3%})"
        return f"{self.logits.summary()}\n{text}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "layers": [asdict(one) for one in self.layers],
            "last": self.last.to_json(),
            "logits": self.logits.to_json(),
            "code_flips_allowed": self.budget.code_flips,
        }


@dataclass
class _Exchange:
    """Counts each layer's difference, and passes the source's codes to later layers."""

    facts: Mapping[str, tuple[str, Codes]]
    values: Mapping[str, NDArray[Any]]
    as_values: bool
    start: int = 0
    found: dict[str, LayerDifference] = field(default_factory=dict)

    def __call__(self, tensor: str, ours: NDArray[Any]) -> NDArray[Any]:
        if tensor not in self.facts:
            return ours
        layer, codes = self.facts[tensor]
        theirs = self.values[layer][self.start : self.start + len(ours)]
        if theirs.size != ours.size:
            return ours
        theirs = theirs.reshape(ours.shape)
        scale = np.float64(codes.scale)
        one = self.found.setdefault(tensor, LayerDifference(layer=layer))
        if self.as_values:
            gap = np.abs(ours - theirs) / scale
            one.add(np.where(gap <= HALVED, 0.0, gap))
            return theirs.astype(ours.dtype)
        exact = np.rint(theirs / scale)
        one.add(np.abs(ours.astype(np.float64) - codes.zero_point - exact))
        return np.clip(exact + codes.zero_point, codes.low, codes.high).astype(ours.dtype)


def require_within(found: Departure) -> None:
    """Check that two computations are within their budget.

    Raises:
        SourceError: they are not.
    """
    if found.failures:
        raise SourceError("; ".join(found.failures))


def compare_with_source(
    source: QonnxGraph,
    reference: Reference[Any],
    facts: Mapping[str, Codes],
    engine: tuple[str, NDArray[np.float32]],
    images: NDArray[np.uint8],
    *,
    whole: Budget,
    as_values: bool,
) -> SourceComparison:
    """Run a source file on ``images``, uint8 N×C×H×W, and compare.

    Args:
        source: of the file; its path, the form of its image and the name of its logits are used.
        reference: of the lowered file.
        facts: its codes by the layer's name in the source.
        engine: its name, and its logits for these images.
        images: as given.
        whole: the allowed difference of the engine's logits from the source's.
        as_values: whether ``facts`` name tensors of values, as in a Q/DQ file, not of codes.

    Raises:
        EngineUnavailable: onnxruntime is not installed.
        InputError: the source does not run.
    """
    run = SourceRun(source.path, [source.logits, *facts])
    values = run.run(source.form.input_of(images))
    named: dict[str, tuple[str, Codes]] = {}
    for layer in run.tensors:
        if layer in facts:
            named.setdefault(facts[layer].name, (layer, facts[layer]))
    exchange = _Exchange(named, values, as_values)
    rows = []
    reference.batch_size = 1  # so that a batch is never computed in parts
    for logits, _ in reference.batches(images, exchange):
        rows.append(logits)
        exchange.start += len(logits)
    theirs = values[source.logits]
    truth = (NAME, theirs.reshape(len(images), -1).astype(np.float32))
    return SourceComparison(
        layers=tuple(exchange.found.values()),
        last=departure((LAYER, np.concatenate(rows)), truth, BUDGET),
        logits=departure(engine, truth, whole),
        budget=BUDGET,
    )


def noise(source: QonnxGraph, count: int = IMAGES) -> NDArray[np.uint8]:
    """Images for a source: coarse blocks with noise, uint8 N×C×H×W, always the same ones."""
    _, channels, height, width = source.shapes[source.image]
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (count, channels, -(-height // 4), -(-width // 4)))
    blocks = np.kron(rough, np.ones((1, 1, 4, 4)))[:, :, :height, :width]
    fine = rng.integers(-24, 25, (count, channels, height, width))
    return np.clip(blocks + fine, 0, 255).astype(np.uint8)
