"""What parity counts over the batches of images, and why it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.files import sha256_of
from export.budget import Budget, Logits
from export.code_facts import code_facts, constants_of
from export.parity_report import LayerParity, Parity
from export.reading import read_model
from export.reference import IntegerReference, Layer, LiteRtReference

LEAST_CODES = 2
LEAST_CLASSES = 3
_CURE = "train longer or calibrate, or give more hold-out images of all classes"


@dataclass
class _CodeTally:
    """Counts of one tensor of codes, over the batches."""

    layer: Layer
    values: int = 0
    different: int = 0
    largest: int = 0
    flips: int | None = None
    largest_flip: int | None = None
    seen: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(256, bool))

    def add(self, engine: NDArray[np.uint8], reference: NDArray[np.uint8]) -> None:
        reference = reference.reshape(engine.shape)
        self.values += engine.size
        self.seen[engine] = True
        count, largest = _difference(engine, reference)
        self.different, self.largest = self.different + count, max(self.largest, largest)

    def add_fake(
        self, fake: NDArray[np.int16], reference: NDArray[np.uint8], zero_point: int
    ) -> None:
        ours = reference.reshape(len(fake), -1).astype(np.int16) - zero_point
        count, largest = _difference(ours, fake.reshape(len(fake), -1))
        self.flips = (self.flips or 0) + count
        self.largest_flip = max(self.largest_flip or 0, largest)

    def result(self) -> LayerParity:
        return LayerParity(
            name=self.layer.name,
            operator=self.layer.operator,
            tensor=self.layer.output,
            values=self.values,
            different=self.different,
            largest_difference=self.largest,
            distinct_codes=int(self.seen.sum()),
            flips=self.flips,
            largest_flip=self.largest_flip,
        )


def _difference(a: NDArray[np.integer], b: NDArray[np.integer]) -> tuple[int, int]:
    """How many codes differ, and by how many at most."""
    if np.array_equal(a, b):
        return 0, 0
    gap = np.abs(a.astype(np.int16) - b)
    return int(np.count_nonzero(gap)), int(gap.max())


class Tally:
    """The counts of one file, batch by batch.

    Args:
        truth: the reference of the file.
    """

    def __init__(self, truth: IntegerReference | LiteRtReference) -> None:
        self.truth = truth
        named = {layer.output: layer for layer in truth.layers}
        self.codes = {name: _CodeTally(named[name]) for name in truth.code_tensors}
        self.engine: list[Logits] = []
        self.reference: list[Logits] = []
        self.fake: list[Logits] = []
        self.probe_departs = False

    @cached_property
    def zero_points(self) -> Mapping[str, int]:
        """The byte that represents 0 in each tensor of codes."""
        if isinstance(self.truth, LiteRtReference):
            return self.truth.zero_points
        model = read_model(self.truth.path)
        facts = code_facts(model, constants_of(model))
        return {name: one.zero_point for name, one in facts.items()}

    def add_logits(self, engine: Logits, reference: Logits) -> None:
        """Add a batch's logits, each N×classes.

        Raises:
            InputError: their shapes differ.
        """
        if engine.shape != reference.shape:
            raise InputError(
                f"the engine gives logits of shape {engine.shape}, the reference of shape "
                f"{reference.shape}: the files are not of the same network"
            )
        self.engine.append(engine)
        self.reference.append(reference)

    def add_fake(
        self,
        logits: Logits,
        fake: Mapping[str, NDArray[np.int16]],
        reference: Mapping[str, NDArray[np.uint8]],
    ) -> None:
        """Add a batch of the fake-quantized network: logits, and its codes by tensor name beside
        the reference's.

        Raises:
            InputError: a tensor is missing in the reference, or has another size there.
        """
        self.fake.append(logits)
        for name, theirs in fake.items():
            if name not in reference or reference[name].size != theirs.size:
                raise InputError(
                    f"the fake-quantized network has a layer {name!r} of {theirs.size} codes "
                    "that the file does not have, so the two are not the same network; export "
                    "again"
                )
            self.codes[name].add_fake(theirs, reference[name], self.zero_points[name])

    def result(self, model: Path, engine: str, budget: Budget | None) -> Parity:
        """The counts, and why they fail.

        Args:
            model: the file that the engine ran.
            engine: its name.
            budget: what may differ from the fake-quantized network; None: it was not compared.
        """
        layers = tuple(one.result() for one in self.codes.values())
        ours, theirs = np.concatenate(self.engine), np.concatenate(self.reference)
        departed = [layer.name for layer in layers if layer.different]
        logits_layer = next(
            layer.name for layer in reversed(self.truth.layers) if layer.output not in self.codes
        )
        first = departed[0] if departed else logits_layer if (ours != theirs).any() else None
        fake = np.concatenate(self.fake) if self.fake else None
        predictions, flips = ours.argmax(axis=1), None
        if fake is not None:
            flips = tuple(map(int, np.nonzero(predictions != fake.argmax(axis=1))[0]))
        found = Parity(
            model=model.name,
            model_sha256=sha256_of(model),
            reference_sha256=sha256_of(self.truth.path),
            engine=engine,
            images=len(ours),
            classes=ours.shape[1],
            layers=layers,
            logits_different=int(np.count_nonzero(ours != theirs)),
            largest_logit_difference=_largest(ours, theirs),
            predictions_different=int(np.count_nonzero(predictions != theirs.argmax(axis=1))),
            predicted_classes=len(np.unique(predictions)),
            first_departure=first,
            flips=flips,
            agreement=None if flips is None else 1 - len(flips) / len(ours),
            failures=(),
            first_flip=next((layer.tensor for layer in layers if layer.flips), None),
            # Compared as bytes: 0 and -0 differ.
            fake_logits_different=None
            if fake is None
            else int(np.count_nonzero(fake.view(np.uint32) != theirs.view(np.uint32))),
            largest_fake_logit_difference=None if fake is None else _largest(fake, theirs),
            budget=budget,
        )
        return replace(found, failures=tuple(_failures(found, self.probe_departs)))


def _largest(a: Logits, b: Logits) -> float:
    return float(np.abs(a.astype(np.float64) - b).max())


def _failures(found: Parity, probe_departs: bool) -> Iterator[str]:
    """Why parity fails, one sentence each."""
    departed = [layer for layer in found.layers if layer.different]
    if departed:
        layer = departed[0]
        yield (
            f"codes differ first at layer {layer.name!r} ({layer.operator}): {layer.different:,} "
            f"of {layer.values:,} differ, by at most {layer.largest_difference}; {len(departed)} "
            f"of {len(found.layers)} layers differ"
        )
    if found.logits_different:
        where = f" while all codes agree: the difference arises in {found.first_departure!r}"
        yield (
            f"{found.logits_different:,} logits differ, by at most "
            f"{found.largest_logit_difference:.9g}{'' if departed else where}"
        )
    for layer in found.layers:
        if layer.distinct_codes < LEAST_CODES:
            yield (
                f"layer {layer.name!r} ({layer.operator}) gives {layer.distinct_codes} distinct "
                f"code, expected at least {LEAST_CODES}: the layer is dead; {_CURE}"
            )
    if probe_departs:
        yield (
            "the copy that outputs the codes gives other logits than the file itself: the engine "
            "optimized the two differently, so its codes were not proved"
        )
    if found.classes >= LEAST_CLASSES > found.predicted_classes:
        yield (
            f"only {found.predicted_classes} of {found.classes} classes predicted on "
            f"{found.images} images, expected at least {LEAST_CLASSES}: a dead network agrees "
            f"with anything; {_CURE}"
        )
    if found.budget is not None:
        yield from _over_budget(found, found.budget)


def _over_budget(found: Parity, budget: Budget) -> Iterator[str]:
    """Why the reference exceeds its budget against fake quantization.

    Only the first layer over the budget is named, because later layers inherit its flips.
    """
    most = budget.largest_code_flip
    for layer in found.layers:
        wide = most is not None and (layer.largest_flip or 0) > most
        if layer.flip_share > budget.code_flips or wide:
            yield (
                f"layer {layer.tensor!r} has {layer.flips:,} of {layer.values:,} codes "
                f"({layer.flip_share:.3%}) that differ from the fake-quantized network's, by at "
                f"most {layer.largest_flip}; the budget is {budget.code_flips:.3%}"
                + ("" if most is None else f", by at most {most}")
            )
            break
    flips = len(found.flips or ())
    if flips > budget.flips * found.images:
        yield (
            f"{flips:,} of {found.images:,} images ({flips / found.images:.3%}) have another class "
            f"than in the fake-quantized network; the budget is {budget.flips:.3%}"
        )
    if budget.logits == 0.0 and found.fake_logits_different:
        yield (
            f"{found.fake_logits_different:,} logits differ from those of fake quantization, by "
            f"at most {found.largest_fake_logit_difference:.9g}; in an exact network none may "
            "differ"
        )
