from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.errors import InputError, NothingToEvaluate, UsageError
from deploy.core.latency import measure_latency
from deploy.engine import open_engine


class _Recorder:
    """An engine whose batches take the time, in ns, that a test says."""

    name, input_shape, batch_size, classes, threads = "recorder", (3, 8, 8), None, 2, 3

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []

    def run(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(batch)
        return np.zeros((len(batch), 2), np.float32)


def test_percentiles_and_rate(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    durations = [i * 1_000_000 for i in range(1, 101)]  # 1 ms … 100 ms
    clock = itertools.accumulate(itertools.chain.from_iterable((0, d) for d in durations))
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(clock))
    engine: Any = _Recorder()
    latency = measure_latency(engine, images, batch_size=5, repeats=100, warmup=2)
    assert latency.p50_ms == pytest.approx(50.5)
    assert latency.p95_ms == pytest.approx(95.05)
    assert latency.p99_ms == pytest.approx(99.01)
    assert latency.images_per_s == pytest.approx(500 / 5.05)
    assert (latency.batch_size, latency.threads, latency.repeats) == (5, 3, 100)
    assert len(engine.batches) == 102
    assert {len(batch) for batch in engine.batches} == {5}
    assert len({batch.tobytes() for batch in engine.batches}) == 4  # the whole batches of 23


def test_a_real_engine(integer_onnx: Path, images: np.ndarray) -> None:
    with open_engine("onnxruntime", integer_onnx) as engine:
        latency = measure_latency(engine, images, batch_size=4, repeats=20, warmup=1)
    assert 0 < latency.p50_ms <= latency.p95_ms <= latency.p99_ms
    assert latency.images_per_s > 0
    assert json.loads(json.dumps(latency.as_record()))["batch_size"] == 4


def test_impossible_settings(images: np.ndarray) -> None:
    engine: Any = _Recorder()
    for settings in ({"batch_size": 0}, {"repeats": 0}, {"warmup": -1}):
        with pytest.raises(UsageError):
            measure_latency(engine, images, **settings)
    with pytest.raises(InputError, match="at least 24 images"):
        measure_latency(engine, images, batch_size=24)
    with pytest.raises(InputError):
        measure_latency(engine, images[:, :, :4])
    with pytest.raises(NothingToEvaluate):
        measure_latency(engine, images[:0])
    assert engine.batches == []
