"""How long an engine takes for a batch."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine_protocol import Engine
from .errors import InputError, UsageError
from .images import check_images


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of whole batches, as the caller sees them.

    Attributes:
        p50_ms: median time of a batch, in milliseconds; the others are its percentiles too.
        p99_ms: with fewer than 100 repeats, close to the slowest.
        images_per_s: all images over the time of all batches.
        batch_size: images in a batch.
        threads: of the engine.
        repeats: batches that were timed (n of the percentiles).
    """

    p50_ms: float
    p95_ms: float
    p99_ms: float
    images_per_s: float
    batch_size: int
    threads: int
    repeats: int

    def as_record(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)


def measure_latency(
    engine: Engine,
    images: NDArray[np.uint8],
    *,
    batch_size: int = 1,
    repeats: int = 200,
    warmup: int = 20,
) -> Latency:
    """Time ``engine.run`` on consecutive batches of ``images``, starting again at the end.

    Args:
        engine: open.
        images: uint8, N×3×H×W, N at least ``batch_size``; a remainder after whole batches is not
            used.
        batch_size: images in a batch, at least 1.
        repeats: timed batches, at least 1.
        warmup: batches before these that are not timed.

    Raises:
        InputError: fewer images than a batch, or images that do not fit the engine.
        UsageError: a number that is too small.
    """
    if batch_size < 1 or repeats < 1 or warmup < 0:
        raise UsageError(
            "expected batch_size and repeats of 1 or more and warmup of 0 or more, "
            f"got {batch_size}, {repeats} and {warmup}"
        )
    check_images(images, expected_shape=engine.input_shape)
    count = len(images) // batch_size
    if count == 0:
        raise InputError(f"expected at least {batch_size} images for a batch, got {len(images)}")
    batches = [images[i * batch_size : (i + 1) * batch_size] for i in range(count)]
    for i in range(warmup):
        engine.run(batches[i % count])
    times_ns = np.empty(repeats, dtype=np.int64)
    for i in range(repeats):
        start = time.perf_counter_ns()
        engine.run(batches[i % count])
        times_ns[i] = time.perf_counter_ns() - start
    p50, p95, p99 = np.percentile(times_ns / 1e6, [50, 95, 99])
    return Latency(
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        images_per_s=batch_size * repeats / (float(times_ns.sum()) / 1e9),
        batch_size=batch_size,
        threads=engine.threads,
        repeats=repeats,
    )
