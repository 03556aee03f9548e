"""Parity: an engine's codes and logits against the numpy integer reference, exactly.

The reference (:mod:`export.reference`) defines what the file must compute, and the engine must give
exactly that, without tolerance. Each layer must use at least two codes and the predictions at least
three classes, so that a network that computes nothing cannot agree by accident.

The reference is then compared with the fake-quantized network within a budget. That network is also
evaluated on integers (:mod:`training.quantize.integers`), but in float32, which rounds sums above
2^24, and on a GPU in any order that its kernels take. A code that differs between the two is a
flip.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.engine_protocol import Engine
from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.files import read_bytes, sha256_of, write_atomic
from deploy.core.images import check_images
from deploy.core.model_engine import run_all
from deploy.core.scratch import Scratch
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.litert_engine import LiteRtEngine
from export.budget import Budget, Logits
from export.code_facts import code_facts, constants_of
from export.fake_quantized import Batch
from export.graph import fresh_name, graph_inputs, input_dims
from export.litert_builder import with_outputs
from export.parity_report import LayerParity, Parity
from export.reading import read_model
from export.reference import IntegerReference, Layer, LiteRtReference
from export.reference.litert import FIXED_POINT, XNNPACK

logger = logging.getLogger(__name__)

LEAST_CODES = 2
LEAST_CLASSES = 3
_CURE = "train longer or calibrate, or give more hold-out images of all classes"


def check_parity(
    model: Path | str,
    images: NDArray[np.uint8],
    *,
    open_engine: Callable[[Path], Engine] = OnnxRuntimeEngine,
    reference: Path | str | None = None,
    fake_quantized: Callable[[NDArray[np.uint8]], Batch] | None = None,
    budget: Budget | None = None,
    batch_size: int = 16,
) -> Parity:
    """Compare engine and reference on ``images``: every code of every layer, and every logit.

    Logits and predictions are those of the file itself. The codes between the nodes come from a
    temporary copy of it, optimized as usual, whose output is the logits followed by all codes as
    float32 (which holds them exactly). The copy's logits must be the file's own.

    Args:
        model: the final integer ONNX file, which the engine runs.
        images: uint8 N×3×H×W.
        open_engine: opens a file in the engine; ONNX Runtime on one CPU thread by default.
        reference: the file that the reference reads, if not ``model``: a golden file with the same
            tensor names.
        fake_quantized: returns the fake-quantized network's logits and codes of a batch
            (:class:`export.fake_quantized.FakeQuantized`); with it the reference is compared with
            that network layer by layer.
        budget: the allowed difference of the reference from it; None sets no bound.
        batch_size: images at once.

    Raises:
        InputError: a file is damaged or not an integer graph, the arrays do not fit, or the two
            files do not have the same tensors.
        NothingToEvaluate: there are no images.
    """
    model = Path(model)
    check_images(images)
    if not len(images):
        raise NothingToEvaluate("expected at least one image, got none")
    if budget is not None and fake_quantized is None:
        raise InputError("a budget needs the fake-quantized network")
    truth = IntegerReference(model if reference is None else reference, batch_size=batch_size)
    with Scratch() as folder:
        probe = folder / "probe.onnx"
        widths = _write_probe(model, probe, truth, images[:1])
        with open_engine(model) as engine, open_engine(probe) as probed:
            ends = np.cumsum([engine.classes, *widths.values()])[:-1]

            def show(batch: NDArray[np.uint8]) -> Shown:
                logits, *parts = np.split(run_all(probed, batch), ends, axis=1)
                found = zip(widths, parts, strict=True)
                return logits, {name: part.astype(np.uint8) for name, part in found}

            tally = _compare(truth, engine, show, images, fake_quantized)
            return tally.result(model, engine.name, budget)


def check_litert_parity(
    model: Path | str,
    images: NDArray[np.uint8],
    *,
    kernels: str = "xnnpack",
    fake_quantized: Callable[[NDArray[np.uint8]], Batch] | None = None,
    budget: Budget | None = None,
    batch_size: int = 16,
) -> Parity:
    """Compare a ``.tflite`` file in LiteRT with the reference of the same arithmetic, as
    :func:`check_parity` does. The temporary copy has the codes as further outputs.

    Args:
        model: the file.
        images: uint8 N×C×H×W.
        kernels: of :data:`deploy.litert_engine.KERNELS`.
        fake_quantized, budget, batch_size: as in :func:`check_parity`.

    Raises:
        EngineUnavailable: ai-edge-litert is not installed.
        InputError, NothingToEvaluate: as :func:`check_parity`.
    """
    model = Path(model)
    check_images(images)
    if not len(images):
        raise NothingToEvaluate("expected at least one image, got none")
    arithmetic = XNNPACK if kernels == "xnnpack" else FIXED_POINT
    truth = LiteRtReference(model, arithmetic=arithmetic, batch_size=batch_size)
    with Scratch() as folder:
        probe = folder / "probe.tflite"
        write_atomic(probe, with_outputs(read_bytes(model), truth.code_tensors))
        with (
            LiteRtEngine(model, kernels=kernels) as engine,
            LiteRtEngine(probe, kernels=kernels) as probed,
        ):

            def show(batch: NDArray[np.uint8]) -> Shown:
                found = probed.outputs(batch)
                codes = {}
                for name in truth.code_tensors:
                    part = found[name].view(np.uint8) ^ np.uint8(128)
                    part = part.transpose(0, 3, 1, 2) if part.ndim == 4 else part
                    codes[name] = part.reshape(len(batch), -1)
                return probed.logits_of(found), codes

            tally = _compare(truth, engine, show, images, fake_quantized)
            return tally.result(model, engine.name, budget)


Shown = tuple[NDArray[np.float32], dict[str, NDArray[np.uint8]]]
"""Logits N×classes, and codes N×values by tensor name, of the temporary copy."""


def _compare(
    truth: IntegerReference | LiteRtReference,
    engine: Engine,
    show: Callable[[NDArray[np.uint8]], Shown],
    images: NDArray[np.uint8],
    fake_quantized: Callable[[NDArray[np.uint8]], Batch] | None,
) -> _Tally:
    tally = _Tally(truth)
    truth.batch_size = step = engine.batch_size or truth.batch_size
    stream = truth.batches(images)
    for start in range(0, len(images), step):
        batch = images[start : start + step]
        logits, codes = next(stream)
        tally.add_logits(run_all(engine, batch), logits)
        shown, parts = show(batch)
        tally.probe_departs |= not np.array_equal(shown, tally.engine[-1])
        for name, part in parts.items():
            tally.codes[name].add(part, codes[name])
        if fake_quantized is not None:
            tally.add_fake(*fake_quantized(batch), codes)
        logger.debug("parity: %d of %d images", start + len(batch), len(images))
    return tally


def _write_probe(
    path: Path, probe: Path, truth: IntegerReference, sample: NDArray[np.uint8]
) -> dict[str, int]:
    """Write a copy of the model whose one output is [logits | all codes], and return the widths.

    Each tensor of codes is cast to float32, which holds 0…255 exactly, and flattened. Every engine
    of the protocol supports one float output, so none needs a special case. The widths, numbers of
    values per image by tensor name in the order of the columns, follow from ``sample``.
    """
    model = read_model(path)
    made = {name for node in model.graph.node for name in node.output}
    absent = [name for name in truth.code_tensors if name not in made]
    if absent:
        raise InputError(
            f"{path} does not give the tensors {', '.join(absent[:5])} that the reference "
            f"{truth.path} has: the files are not of the same network"
        )
    logits, codes = next(truth.batches(sample))
    widths = {name: codes[name].size for name in truth.code_tensors}
    parts = [fresh_name("parity/logits", made)]
    old = model.graph.output[0].name
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == old:
                node.output[index] = parts[0]
    for index, name in enumerate(widths):
        number = fresh_name(f"parity/number{index}", made)
        flat = fresh_name(f"parity/flat{index}", made)
        model.graph.node.append(
            onnx.helper.make_node("Cast", [name], [number], to=onnx.TensorProto.FLOAT)
        )
        model.graph.node.append(onnx.helper.make_node("Flatten", [number], [flat], axis=1))
        parts.append(flat)
    model.graph.node.append(onnx.helper.make_node("Concat", parts, [old], axis=1))
    batch = input_dims(graph_inputs(model)[0])[0]
    total = logits.shape[1] + sum(widths.values())
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(old, onnx.TensorProto.FLOAT, [batch or "N", total])
    )
    write_atomic(probe, model.SerializeToString())
    return widths


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


class _Tally:
    """Counts over the batches."""

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
