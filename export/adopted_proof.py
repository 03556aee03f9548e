"""The proof that a foreign ONNX file with its preprocessing inside computes what the file does.

The original file, run node by node, is compared with the new one, node by node and as the engine
optimizes it; and each image alone with the same image in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.engine_protocol import Engine
from deploy.core.errors import InputError
from deploy.core.model_engine import run_all
from deploy.core.text import some
from deploy.engine import open_engine
from export.budget import EQUAL, FLOAT_BUDGET, Budget, Departure, departure
from export.certificate import Certificate, certify
from export.foreign_model import ForeignModel
from export.source_run import NAME as SOURCE

ENGINE = "onnxruntime"
CERTIFIED_IMAGES = 8
BATCH_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class AdoptedProof:
    """What running the file with its preprocessing inside showed.

    Attributes:
        logits: the engine's, of the images shown.
        optimized: the engine's optimized run, compared with the original file run node by node.
        certificate: what ran in integers and what in float.
        budget: how far the engine may depart from the file.
    """

    logits: NDArray[np.float32]
    optimized: Departure
    certificate: Certificate
    budget: Budget


def prove_adopted(
    candidate: Path,
    foreign: ForeignModel,
    images: NDArray[np.uint8],
    own: NDArray[Any],
    budget: Budget,
) -> AdoptedProof:
    """Run the new file, and refuse each departure from the logits of the file itself.

    Args:
        candidate: the file with its preprocessing inside.
        foreign: the file itself.
        images: uint8 N×C×H×W.
        own: the logits of ``foreign``, run node by node on these images.
        budget: how far the engine may depart from them.

    Raises:
        InputError: the engine does not load the candidate, or its results change with the
            preprocessing inside, when the engine optimizes it, or with the other images of a batch.
    """
    _require_same(candidate, foreign.path, images, own)
    with open_engine(ENGINE, candidate) as engine:
        logits = run_all(engine, images, BATCH_IMAGES)
        _require_independent(engine, foreign, images, logits, budget)
        optimized = departure((engine.name, logits), (SOURCE, _flat(own)), budget)
    _require_within(optimized, foreign.path)
    return AdoptedProof(
        logits=logits,
        optimized=optimized,
        certificate=certify(candidate, images[:CERTIFIED_IMAGES]),
        budget=budget,
    )


def _require_same(
    candidate: Path, path: Path, images: NDArray[np.uint8], own: NDArray[Any]
) -> None:
    """Check that the file with its preprocessing inside computes the same as the file itself.

    Both run node by node, one image at a time. The numbers must be equal, except for float16's
    roundings.
    """
    expected = _flat(own)
    classes = expected.shape[1]
    with open_engine(ENGINE, candidate, optimize=False) as engine:
        if engine.classes != classes:
            raise InputError(f"{path} gives {classes} logits, the new graph gives {engine.classes}")
        inside = run_all(engine, images, 1)
    exact = own.dtype == np.float32
    found = departure(
        (f"{path.name} with its preprocessing included", inside),
        (SOURCE, expected),
        EQUAL if exact else FLOAT_BUDGET,
    )
    if found.failures:
        raise InputError(f"{path}: {'; '.join(found.failures)}")


def _require_independent(
    engine: Engine,
    foreign: ForeignModel,
    images: NDArray[np.uint8],
    logits: NDArray[np.float32],
    budget: Budget,
) -> None:
    """Check that the logits of an image do not depend on the other images of its batch.

    A scale that is computed from the whole batch changes every code, so the logits may differ only
    as much as float sums in another order. If two logits are almost equal, the class may differ.
    The batches of a file with a fixed batch size are filled with one image.
    """
    dynamic = [
        node.name or node.output[0]
        for node in foreign.model.graph.node
        if node.op_type.startswith("DynamicQuantize")
    ]
    step = engine.batch_size or 1
    few = images[: max(1, len(images) // step)]
    alone = run_all(engine, np.repeat(few, step, axis=0), step)[::step]
    found = departure(
        (f"{engine.name}, one image at a time,", alone),
        (f"batches of {engine.batch_size or BATCH_IMAGES}", logits[: len(few)]),
        replace(FLOAT_BUDGET if dynamic else budget, flips=1.0),
    )
    if found.failures:
        why, cure = "", "export it in evaluation mode"
        if dynamic:
            why = (
                ", because DynamicQuantizeLinear computes one scale for all of them "
                f"({some(dynamic)})"
            )
            cure = "quantize it statically (onnxruntime.quantization.quantize_static)"
        raise InputError(
            f"{foreign.path}: the logits of an image depend on the other images of its batch"
            f"{why}; {'; '.join(found.failures)}; every figure would depend on the batch size: "
            f"{cure}, or fix the batch of its input at 1 "
            "(python -m onnxruntime.tools.make_dynamic_shape_fixed)"
        )


def _require_within(optimized: Departure, path: Path) -> None:
    """Check that the engine's kernels compute the same as the file, node by node."""
    if optimized.failures:
        raise InputError(
            f"{path}: {'; '.join(optimized.failures)}; expected the engine to compute what the "
            "file specifies; quantize with reduce_range=True if sums of 8-bit weights saturate, "
            "or try more images (--images) if a few have another class"
        )


def _flat(logits: NDArray[Any]) -> NDArray[np.float32]:
    flat: NDArray[np.float32] = logits.reshape(len(logits), -1).astype(np.float32)
    return flat
