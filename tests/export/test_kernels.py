"""Each form of a convolution gives the bytes of the plain one, in engine and reference."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.core.host import host_facts
from export.graph_builder import GraphBuilder
from export.passes.kernels import KernelForm, kernel_form
from export.passes.qonnx_graph import QonnxGraph
from export.passes.rule import Codes, Context, byte, scalar
from export.reference.operators import prepare
from tests.export.small_qonnx import small_qonnx

X = np.float32(0.5)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> QonnxGraph:
    """Any QONNX graph: the choice of a form does not look at it."""
    path = tmp_path_factory.mktemp("qonnx") / "q.onnx"
    onnx.save(small_qonnx(np.random.default_rng(0)), path)
    return QonnxGraph(path)


def written(context: Context, form: KernelForm, zero_point: int) -> onnx.ModelProto:
    """The nodes in front of the convolution, and the convolution, with a step of 100 sums."""
    builder, outputs = context.builder, len(form.weights)
    inputs = [
        form.source,
        scalar(builder, X),
        byte(builder, zero_point),
        builder.constant(form.weights.astype(np.int8), "w", shared=False),
        builder.constant(np.full(outputs, 0.01, np.float32), "ws"),
        builder.constant(np.int8(form.zero_point), "wz", shared=False),
        scalar(builder, np.float32(0.5)),
        byte(builder, 100),
        builder.constant(np.arange(outputs, dtype=np.int32) * 50, "b"),
    ]
    builder.add("QLinearConv", inputs, "y", **form.attributes)
    axes = ["N", "C", "H", "W"]
    return builder.model(
        name="one",
        inputs=[helper.make_tensor_value_info("x", TensorProto.UINT8, axes)],
        outputs=[helper.make_tensor_value_info("y", TensorProto.UINT8, axes)],
        opset=13,
        ir_version=8,
        domains=(),
    )


def in_engine(model: onnx.ModelProto, x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if host_facts().u8s8_saturates:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    codes: NDArray[np.uint8] = session.run(None, {"x": x})[0]
    return codes


def in_reference(model: onnx.ModelProto, x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values = {"x": x}
    for node in model.graph.node:
        names, function = prepare(node, constants)
        values[node.output[0]] = function(*(values[name] for name in names))
    return values["y"]


def both(
    graph: QonnxGraph,
    x: NDArray[np.uint8],
    weights: NDArray[np.int64],
    attributes: dict[str, Any],
    *,
    zero_point: int,
    tune: str = "any",
    storage: str = "low-bit",
) -> KernelForm:
    """Hold the chosen form to the plain one; give the form."""
    models, forms = [], []
    for plain in (True, False):
        context = Context(source=graph, builder=GraphBuilder(), storage=storage, tune=tune)
        context.builder.reserve("x")
        codes = Codes(name="x", scale=X, zero_point=zero_point, low=0, high=255)
        form = KernelForm(source="x", weights=weights, zero_point=0, attributes=attributes)
        if not plain:
            form = kernel_form(context, codes, x.shape, weights, attributes)
        models.append(written(context, form, zero_point))
        forms.append(form)
    expected = in_engine(models[0], x)
    assert len(np.unique(expected)) > 1
    assert np.array_equal(in_engine(models[1], x), expected)
    assert np.array_equal(in_reference(models[1], x), expected)
    return forms[1]


def test_large_kernels_with_a_stride_over_blocks(graph: QonnxGraph) -> None:
    drawn: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(data=st.data())
    def compare(data: st.DataObject) -> None:
        def draw(low: int, high: int) -> int:
            return data.draw(st.integers(low, high))

        stride, kernel = draw(1, 4), [draw(6, 8), draw(6, 8)]
        pads = [draw(0, 4) for _ in range(4)]
        # One more row now and then: it is in no whole block.
        sides = [
            stride * draw(-(-8 // stride), -(-14 // stride)) + (draw(0, 9) == 0) for _ in range(2)
        ]
        rng = np.random.default_rng(draw(0, 999))
        form = both(
            graph,
            rng.integers(0, 256, (2, 3, *sides), dtype=np.uint8),
            rng.integers(-9, 10, (5, 3, *kernel)),
            {"kernel_shape": kernel, "strides": [stride] * 2, "pads": pads},
            zero_point=draw(0, 255),
        )
        blocked = form.source.endswith(".blocks")
        drawn["blocks" if blocked else "plain"] += 1
        if blocked:
            assert form.attributes["strides"] == [1, 1]
            assert form.weights.shape[1] == 3 * stride**2
            assert all(side % stride == 0 for side in sides)
        drawn[f"stride {stride}"] += blocked

    compare()
    assert min(drawn["blocks"], drawn["plain"]) >= 10
    # 27 channels are not a multiple of four.
    assert drawn["stride 1"] == drawn["stride 3"] == 0
    assert min(drawn["stride 2"], drawn["stride 4"]) >= 3


@pytest.mark.parametrize(
    ("channels", "side", "kernel", "outputs", "zero_point"),
    [
        (320, 5, 1, 8, -1),
        (316, 5, 1, 8, 0),
        (64, 29, 3, 96, -1),
        (64, 29, 3, 92, 0),
        (60, 29, 3, 96, 0),
        (64, 28, 3, 64, -1),
        (64, 28, 3, 60, 0),
    ],
)
def test_long_sums_go_to_the_matrix_kernel(
    graph: QonnxGraph, channels: int, side: int, kernel: int, outputs: int, zero_point: int
) -> None:
    rng = np.random.default_rng(channels)
    x = rng.integers(0, 256, (2, channels, side, side), dtype=np.uint8)
    weights = rng.integers(-1, 2, (outputs, channels, kernel, kernel))
    attributes = {"kernel_shape": [kernel, kernel], "pads": [kernel // 2] * 4}
    form = both(graph, x, weights, attributes, zero_point=7, tune="amx")
    assert form.zero_point == zero_point
    assert both(graph, x, weights, attributes, zero_point=7).zero_point == 0
    # No room below: it stays as it is.
    weights[0, 0, 0, 0] = -128
    assert both(graph, x, weights, attributes, zero_point=7, tune="amx").zero_point == 0


def test_runtimes_without_blocks_of_bytes_get_none(graph: QonnxGraph) -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.integers(0, 256, (1, 3, 16, 16), np.uint8), rng.integers(-9, 10, (6, 3, 7, 7))
    attributes = {"kernel_shape": [7, 7], "strides": [2, 2], "pads": [3, 3, 3, 3]}
    assert both(graph, x, weights, attributes, zero_point=3).source == "x.blocks"
    kept = both(graph, x, weights, attributes, zero_point=3, storage="int8")
    assert (kept.source, kept.attributes) == ("x", attributes)


def test_groups_stay_as_they_are(graph: QonnxGraph) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1, 6, 16, 16), dtype=np.uint8)
    attributes = {"kernel_shape": [7, 7], "strides": [2, 2], "group": 6}
    form = both(graph, x, rng.integers(-9, 10, (6, 1, 7, 7)), attributes, zero_point=3, tune="amx")
    assert (form.source, form.note) == ("x", "")
