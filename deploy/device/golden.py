"""The golden check: the same codes and logits here as in the lab."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.engine_protocol import Engine
from ..core.errors import InputError
from ..core.files import sha256_of_bytes
from ..core.model_engine import run_all
from .manifest import ModelFacts

MOST_OF_LOGITS, MOST_FLIPS = 0.5, 0.5
"""What a budget may allow, of the largest golden logit and of the golden images (at least one)."""

BATCH_SIZES = (1, 2, 64)
"""Images a call, in which the golden images must give what they give all together."""


@dataclass(frozen=True, kw_only=True)
class GoldenResult:
    """The result of the golden images.

    Attributes:
        n: images.
        tensors: tensors of codes that were compared, bit for bit.
        largest_difference: of the logits.
        flips: images whose class differs.
        logits_sha256: of the engine's logits, little-endian float32.
    """

    n: int
    tensors: int
    largest_difference: float
    flips: int
    logits_sha256: str

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def logits_bytes(logits: NDArray[np.float32]) -> bytes:
    """Return the bytes that a SHA-256 of logits covers: little-endian float32, image by image."""
    return logits.astype("<f4").tobytes()


def check_logits(
    engine: Engine,
    inputs: NDArray[np.uint8],
    golden: NDArray[np.float32],
    model: ModelFacts,
    *,
    tensors: int,
) -> GoldenResult:
    """Run the golden inputs and compare the logits with the golden ones, within the model's budget.

    Args:
        engine: open.
        inputs: uint8 G×3×H×W.
        golden: float32 G×C.
        model: with the budget; a largest difference of 0 requires equal bits.
        tensors: number of tensors of codes that were already found equal.

    Raises:
        InputError: a difference is beyond the budget, or the budget would allow anything.
    """
    _require_budget(model, golden)
    logits = run_all(engine, inputs)
    if logits.shape != golden.shape:
        raise InputError(f"the model gives {logits.shape[1]} classes, expected {golden.shape[1]}")
    result = GoldenResult(
        n=len(inputs),
        tensors=tensors,
        largest_difference=float(np.abs(logits.astype(np.float64) - golden).max()),
        flips=int((logits.argmax(axis=1) != golden.argmax(axis=1)).sum()),
        logits_sha256=sha256_of_bytes(logits_bytes(logits)),
    )
    if result.largest_difference > model.max_logit_difference or result.flips > model.max_flips:
        raise InputError(
            f"{engine.name} differs from the golden logits of {result.n} images, with a largest "
            f"difference of {result.largest_difference:g} (allowed "
            f"{model.max_logit_difference:g}) and {result.flips} flips (allowed "
            f"{model.max_flips}): this engine does not compute what the lab measured"
        )
    return result


def _require_budget(model: ModelFacts, golden: NDArray[np.float32]) -> None:
    most = MOST_OF_LOGITS * float(np.abs(golden).max())
    flips = max(1, int(MOST_FLIPS * len(golden)))
    if model.max_logit_difference > most or model.max_flips > flips:
        raise InputError(
            f"the manifest allows {model.file} a difference of logits of "
            f"{model.max_logit_difference:g} and {model.max_flips} flips of {len(golden)} golden "
            f"images; expected {most:g} and {flips} or less, because any model meets larger "
            "limits; make the bundle again"
        )


def check_independence(
    engine: Engine,
    inputs: NDArray[np.uint8],
    golden: NDArray[np.float32],
    model: ModelFacts,
    rng: np.random.Generator,
) -> None:
    """Check single images, pairs and batches of 64, in two orders, against the budget.

    This shows that the logits of an image depend neither on its neighbours, nor on their number or
    order, nor on earlier calls. It runs 400 images at most: the first 64 golden ones, and 64 to
    fill up.

    Args:
        engine: open; an engine with a fixed batch size is run with that.
        inputs: uint8 G×3×H×W, which gave the golden logits in one batch.
        golden: float32 G×C.
        model: with the budget.
        rng: draws the second order, so that no neighbours are known in advance.

    Raises:
        InputError: a difference is beyond the budget.
    """
    few = np.arange(min(len(inputs), max(BATCH_SIZES)))
    for size in BATCH_SIZES if engine.batch_size is None else (engine.batch_size,):
        for order in (few, rng.permutation(few)):
            _hold(engine, inputs, golden, order, size, model.max_logit_difference, model.max_flips)


def check_suite_independence(
    engine: Engine,
    images: NDArray[np.uint8],
    model: ModelFacts,
    golden: int,
    rng: np.random.Generator,
) -> None:
    """Compare 64 images of the suite, run singly, in pairs and in one batch, with each other.

    The golden images are the lab's choice, and may repeat one image, while the results on the suite
    must not depend on the batch. Two runs, each within the budget of the reference, are at most
    twice the budget apart.

    Args:
        engine: open; an engine with a fixed batch size is run with that, in three orders.
        images: uint8 N×3×H×W, of the suite.
        model: with the budget.
        golden: number of images that the budget's flips refer to.
        rng: draws the images and their orders.

    Raises:
        InputError: a difference is beyond the budget.
    """
    most = max(BATCH_SIZES)
    some = images[rng.permutation(len(images))[:most]]
    flips = math.ceil(2 * model.max_flips * len(some) / golden)
    sizes = BATCH_SIZES if engine.batch_size is None else (engine.batch_size,) * 3
    logits = run_all(engine, some, sizes[0])
    for size in sizes[1:]:
        order = rng.permutation(len(some))
        _hold(engine, some, logits, order, size, 2 * model.max_logit_difference, flips)


def _hold(
    engine: Engine,
    images: NDArray[np.uint8],
    expected: NDArray[np.float32],
    order: NDArray[np.int64],
    size: int,
    most: float,
    most_flips: int,
) -> None:
    """Run images in an order and in batches of a size, and compare with their expected logits."""
    rows = np.resize(order, max(len(order), size))
    logits = run_all(engine, images[rows], size)
    largest = float(np.abs(logits.astype(np.float64) - expected[rows]).max())
    flipped = rows[logits.argmax(axis=1) != expected[rows].argmax(axis=1)]
    flips = len(np.unique(flipped))
    if largest > most or flips > most_flips:
        raise InputError(
            f"{engine.name} gives other logits in batches of {size} in another order: largest "
            f"difference {largest:g} (allowed {most:g}), {flips} flips (allowed {most_flips}): "
            "its answer for an image depends on the other images or on the call"
        )


def require_exact(
    model: ModelFacts, codes: Mapping[str, NDArray[np.uint8]], tensors: Sequence[str]
) -> None:
    """Check that a model of the exact engine has no budget, and golden codes of all its tensors.

    Args:
        model: of ONNX Runtime's CPU, which computes the codes exactly.
        codes: the golden ones, by tensor name.
        tensors: the tensors of the file that hold codes.

    Raises:
        InputError: a budget, a tensor without golden codes, or codes of no tensor.
    """
    if model.max_logit_difference or model.max_flips:
        raise InputError(
            f"the manifest allows {model.file} a difference of logits of "
            f"{model.max_logit_difference:g} and {model.max_flips} flips; expected 0 and 0, "
            "because its engine computes the codes exactly; make the bundle again"
        )
    missing, unknown = sorted(set(tensors) - codes.keys()), sorted(codes.keys() - set(tensors))
    if missing or unknown:
        raise InputError(
            f"expected golden codes for all {len(tensors)} code tensors of {model.file}, got "
            f"{len(codes)}: missing {', '.join(missing[:3]) or 'none'}, unknown "
            f"{', '.join(unknown[:3]) or 'none'}; make the bundle again"
        )


def check_codes(found: dict[str, NDArray[np.uint8]], golden: dict[str, NDArray[np.uint8]]) -> None:
    """Compare codes bit for bit: arrays by tensor name, uint8 N×…, those of ``found`` in the shapes
    of the golden ones.

    Raises:
        InputError: the first tensor that differs, and by how much.
    """
    for name, expected in golden.items():
        codes = found[name]
        if codes.shape != expected.shape or codes.dtype != np.uint8:
            raise InputError(
                f"the tensor {name!r} has {codes.dtype} {codes.shape}, expected uint8 "
                f"{expected.shape}"
            )
        differ = codes != expected
        if differ.any():
            worst = int(np.abs(codes.astype(np.int64) - expected).max())
            raise InputError(
                f"{int(differ.sum())} of {differ.size} codes of {name!r} differ from the golden "
                f"ones, by {worst} at most: this engine does not compute what the lab measured"
            )
