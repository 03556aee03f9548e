"""Parity: an engine's codes and logits against the numpy integer reference, exactly.

The reference (:mod:`export.reference`) says what the file must compute, the engine says what it
did; between the two there is no tolerance. So that a network which computes nothing cannot agree
by accident, each layer must use at least two codes and the predictions at least three classes.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.engine_protocol import Engine
from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.files import sha256_of
from deploy.core.images import check_images
from deploy.core.model_engine import run_all
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from export.code_facts import code_facts, constants_of
from export.fake_quantized import Batch
from export.flips import FlipTally, over_budget
from export.parity_probe import write_probe
from export.parity_report import (
    DEFAULT_BUDGET,
    EXACT_BUDGET,
    Budget,
    LayerParity,
    Parity,
    ParityError,
    require_parity,
)
from export.reading import read_model
from export.reference import IntegerReference, Layer

logger = logging.getLogger(__name__)

LEAST_CODES = 2
LEAST_CLASSES = 3

__all__ = [
    "DEFAULT_BUDGET",
    "EXACT_BUDGET",
    "Budget",
    "LayerParity",
    "Parity",
    "ParityError",
    "check_parity",
    "require_parity",
]


def check_parity(
    model: Path | str,
    images: NDArray[np.uint8],
    *,
    open_engine: Callable[[Path], Engine] = OnnxRuntimeEngine,
    reference: Path | str | None = None,
    fake_quantized_predictions: NDArray[np.integer] | None = None,
    least_agreement: float | None = None,
    fake_quantized: Callable[[NDArray[np.uint8]], Batch] | None = None,
    budget: Budget | None = None,
    batch_size: int = 16,
) -> Parity:
    """Compare engine and reference on ``images``: every code of every layer, and every logit.

    Logits and predictions are those of the file itself. The codes between the nodes come from a
    temporary copy of it, optimized as usual, whose output is the logits followed by all codes as
    float32 (which holds them exactly); that the copy's logits are the file's own is checked too.

    Args:
        model: the final integer ONNX file, which the engine runs.
        images: uint8 N×3×H×W.
        open_engine: opens a file in the engine; ONNX Runtime on one CPU thread by default.
        reference: the file that the reference reads, if not ``model``: a golden file with the same
            tensor names.
        fake_quantized_predictions: classes that the fake-quantized network gives, int [N].
        least_agreement: smallest share of images that must have the same class as the
            fake-quantized network, 0…1; None demands none.
        fake_quantized: gives the fake-quantized network's logits and codes of a batch
            (:class:`export.fake_quantized.FakeQuantized`); with it the reference is compared with
            that network layer by layer, and its classes are the expected ones.
        budget: how far the reference may be from it; None demands nothing.
        batch_size: images at once.

    Raises:
        InputError: a file is damaged or no integer graph, the arrays do not fit, or the two files
            do not have the same tensors.
        NothingToEvaluate: there are no images.
    """
    model = Path(model)
    reference_path = model if reference is None else Path(reference)
    expected = _predictions_given(fake_quantized_predictions, least_agreement, len(images))
    check_images(images)
    if budget is not None and fake_quantized is None:
        raise InputError("a budget needs the fake-quantized network")
    truth = IntegerReference(reference_path, batch_size=batch_size)
    flips = (
        None if fake_quantized is None else FlipTally(fake_quantized, zero_points(reference_path))
    )
    layers = [layer for layer in truth.layers if layer.output in truth.code_tensors]
    tally = _Tally(layers)
    with tempfile.TemporaryDirectory(prefix="qadtr-parity-") as folder:
        probe = Path(folder) / "probe.onnx"
        widths = write_probe(model, probe, truth, images[:1])
        with open_engine(model) as engine, open_engine(probe) as probed:
            step = engine.batch_size or batch_size
            truth.batch_size = step
            stream = truth.batches(images)
            for start in range(0, len(images), step):
                batch = images[start : start + step]
                reference_logits, reference_codes = next(stream)
                tally.add_logits(run_all(engine, batch), reference_logits)
                wide = run_all(probed, batch)
                tally.probe_departs |= not np.array_equal(
                    wide[:, : engine.classes], tally.engine_logits[-1]
                )
                position = engine.classes
                for name, width in widths.items():
                    codes = wide[:, position : position + width].astype(np.uint8)
                    tally.add_codes(name, codes, reference_codes[name].reshape(len(batch), -1))
                    position += width
                if flips is not None:
                    flips.add(batch, reference_codes)
                logger.debug("parity: %d of %d images", start + len(batch), len(images))
            name = engine.name
    return tally.result(
        model=model,
        reference=reference_path,
        engine=name,
        logits_layer=next(one.name for one in truth.layers if one not in layers),
        expected=expected if flips is None else flips.predictions,
        least_agreement=least_agreement,
        fake=flips,
        budget=budget,
    )


def zero_points(path: Path) -> dict[str, int]:
    """The zero point of every tensor of codes in a final integer file."""
    model = read_model(path)
    facts = code_facts(model, constants_of(model))
    return {name: one.zero_point for name, one in facts.items()}


class _Tally:
    """Counts over the batches."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers
        self.values = {layer.output: 0 for layer in layers}
        self.different = dict(self.values)
        self.largest = dict(self.values)
        self.seen = {layer.output: np.zeros(256, bool) for layer in layers}
        self.engine_logits: list[NDArray[np.float32]] = []
        self.reference_logits: list[NDArray[np.float32]] = []
        self.probe_departs = False

    def add_logits(self, engine: NDArray[np.float32], reference: NDArray[np.float32]) -> None:
        if engine.shape != reference.shape:
            raise InputError(
                f"the engine gives logits of shape {engine.shape}, the reference of shape "
                f"{reference.shape}: the files are not of one network"
            )
        self.engine_logits.append(engine)
        self.reference_logits.append(reference)

    def add_codes(self, name: str, engine: NDArray[np.uint8], reference: NDArray[np.uint8]) -> None:
        self.values[name] += engine.size
        self.seen[name][engine] = True
        if not np.array_equal(engine, reference):
            gap = np.abs(engine.astype(np.int16) - reference)
            self.different[name] += int(np.count_nonzero(gap))
            self.largest[name] = max(self.largest[name], int(gap.max()))

    def result(
        self,
        *,
        model: Path,
        reference: Path,
        engine: str,
        logits_layer: str,
        expected: NDArray[np.int64] | None,
        least_agreement: float | None,
        fake: FlipTally | None,
        budget: Budget | None,
    ) -> Parity:
        layers = tuple(
            LayerParity(
                name=layer.name,
                operator=layer.operator,
                tensor=layer.output,
                values=self.values[layer.output],
                different=self.different[layer.output],
                largest_difference=self.largest[layer.output],
                distinct_codes=int(self.seen[layer.output].sum()),
            )
            for layer in self.layers
        )
        ours, theirs = np.concatenate(self.engine_logits), np.concatenate(self.reference_logits)
        facts: dict[str, Any] = {}
        if fake is not None:
            layers = fake.layers(layers)
            facts = fake.facts(layers, theirs)
        logits_different = int(np.count_nonzero(ours != theirs))
        gap = np.abs(ours.astype(np.float64) - theirs)
        predictions = ours.argmax(axis=1)
        predicted = len(np.unique(predictions))
        departed = [layer.name for layer in layers if layer.different]
        first = departed[0] if departed else logits_layer if logits_different else None
        flips = None if expected is None else np.nonzero(predictions != expected)[0]
        agreement = None if flips is None else 1 - len(flips) / len(predictions)
        failures = _failures(layers, first, logits_different, float(gap.max()))
        if self.probe_departs:
            failures.append(
                "the copy that shows the codes gives other logits than the file itself: the "
                "engine optimized the two differently, so its codes were not proven"
            )
        if ours.shape[1] >= LEAST_CLASSES > predicted:
            failures.append(
                f"only {predicted} of {ours.shape[1]} classes predicted on {len(ours)} images, at "
                f"least {LEAST_CLASSES} expected: a dead network agrees with anything"
            )
        if agreement is not None and least_agreement is not None and agreement < least_agreement:
            failures.append(
                f"the same class as the fake-quantized network on {agreement:.3%} of the images, "
                f"at least {least_agreement:.3%} demanded"
            )
        if budget is not None and flips is not None:
            failures += over_budget(budget, layers, facts, len(flips), len(ours))
        return Parity(
            model=model.name,
            model_sha256=sha256_of(model),
            reference_sha256=sha256_of(reference),
            engine=engine,
            images=len(ours),
            classes=ours.shape[1],
            layers=layers,
            logits_different=logits_different,
            largest_logit_difference=float(gap.max()),
            predictions_different=int(np.count_nonzero(predictions != theirs.argmax(axis=1))),
            predicted_classes=predicted,
            first_departure=first,
            flips=None if flips is None else tuple(int(index) for index in flips),
            agreement=agreement,
            failures=tuple(failures),
            budget=budget,
            **facts,
        )


def _failures(
    layers: tuple[LayerParity, ...], first: str | None, logits_different: int, largest: float
) -> list[str]:
    failures: list[str] = []
    departed = [layer for layer in layers if layer.different]
    if departed:
        layer = departed[0]
        failures.append(
            f"codes depart first at layer {layer.name!r} ({layer.operator}): {layer.different:,} "
            f"of {layer.values:,} differ, by at most {layer.largest_difference}; "
            f"{len(departed)} of {len(layers)} layers depart"
        )
    if logits_different:
        where = "" if departed else f" while all codes agree: the departure is in {first!r}"
        failures.append(f"{logits_different:,} logits differ, by at most {largest:.9g}{where}")
    failures += [
        f"layer {layer.name!r} ({layer.operator}) gives {layer.distinct_codes} distinct code, at "
        f"least {LEAST_CODES} expected: it is dead"
        for layer in layers
        if layer.distinct_codes < LEAST_CODES
    ]
    return failures


def _predictions_given(
    predictions: NDArray[np.integer] | None, least_agreement: float | None, count: int
) -> NDArray[np.int64] | None:
    if count == 0:
        raise NothingToEvaluate("expected at least one image, got none")
    if least_agreement is not None and not 0 <= least_agreement <= 1:
        raise InputError(f"least_agreement is a share, 0…1, not {least_agreement}")
    if predictions is None:
        if least_agreement is not None:
            raise InputError("least_agreement needs fake_quantized_predictions")
        return None
    if predictions.shape != (count,) or not np.issubdtype(predictions.dtype, np.integer):
        raise InputError(
            f"expected {count} integer classes of the fake-quantized network, got "
            f"{predictions.dtype} of shape {predictions.shape}"
        )
    return predictions.astype(np.int64)
