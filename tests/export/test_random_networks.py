"""200 random small networks: integer in the engine, and equal to the reference in every code."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings

from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from export.certificate import certify
from export.lowering import lower
from export.parity import check_parity
from export.qonnx_execution import execute_qonnx
from tests.export.random_qonnx import small_networks, write_random


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(model=small_networks())
def test_engine_is_the_reference_and_integer_on_random_networks(model: onnx.ModelProto) -> None:
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    images = np.random.default_rng(size).integers(0, 256, (3, 3, size, size), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        source = write_random(model, Path(folder) / "q.onnx")
        made = lower(source, Path(folder) / "i.onnx")
        certificate = certify(made.path, images)
        assert certificate.ok, certificate.failures
        parity = check_parity(made.path, images)
    assert parity.first_departure is None
    assert parity.logits_different == 0
    assert sum(layer.different for layer in parity.layers) == 0


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(model=small_networks())
def test_the_integer_graph_computes_the_qonnx_graph(model: onnx.ModelProto) -> None:
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    images = np.random.default_rng(size).integers(0, 256, (2, 3, size, size), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        source = write_random(model, Path(folder) / "q.onnx")
        expected = execute_qonnx(source, images)
        made = lower(source, Path(folder) / "i.onnx")
        with OnnxRuntimeEngine(made.path) as engine:
            logits = engine.run(images)
    # Biases lie on the integer grid, so no code differs; the logits are one float32 product each.
    np.testing.assert_allclose(
        logits, expected, rtol=0.0, atol=1e-5 * np.abs(expected).max() + 1e-6
    )
