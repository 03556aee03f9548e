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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.engine_protocol import Engine
from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.files import read_bytes, write_atomic
from deploy.core.images import check_images
from deploy.core.model_engine import run_all
from deploy.core.scratch import Scratch
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.litert_engine import LiteRtEngine
from export.budget import Budget
from export.fake_quantized import Batch
from export.graph import fresh_name, graph_inputs, input_dims
from export.litert_builder import with_outputs
from export.parity_report import Parity
from export.parity_tally import Tally
from export.reading import read_model
from export.reference import IntegerReference, LiteRtReference
from export.reference.litert_arithmetic import FIXED_POINT, XNNPACK

logger = logging.getLogger(__name__)


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
) -> Tally:
    tally = Tally(truth)
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
