"""Files in the ways in which others write them: taken with their source's numbers, or refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.infer_shapes import InferShapes

from deploy.core.errors import InputError, NothingToEvaluate, UsageError
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from export.canonical import ImageForm
from export.certificate import certify
from export.graph_builder import QONNX
from export.lower_file import LowerSettings, lower_file
from export.lowering import Lowered, lower
from export.parity import check_parity
from export.passes.rule import LoweringError
from export.qonnx_execution import execute_qonnx
from export.source_run import SourceRun
from export.third_party import SourceError
from qadtr.__main__ import main
from tests.export.any_qonnx import SIZE, Drawn, images
from tests.export.small_qonnx import small_qonnx


def taken(path: Path, folder: Path, form: ImageForm | None = None) -> Lowered:
    """Lower; certificate and parity hold, and what the source itself gives is what the file
    gives."""
    made = lower(path, folder / "integer.onnx", form=form)
    certificate = certify(made.path)
    assert certificate.ok, certificate.failures
    shape = OnnxRuntimeEngine(made.path).input_shape
    parity = check_parity(made.path, images(channels=shape[0], size=shape[1]))
    assert parity.first_departure is None
    assert not parity.logits_different
    assert made.source is not None
    assert sum(one.different for one in made.source.layers) <= 2, made.source.layers
    assert made.source.last.largest_difference <= 0.002 * made.source.last.largest_logit
    return made


def _divided(n: Drawn) -> None:
    n.head(n.start(), 4)


def _intquant(n: Drawn) -> None:
    n.head(n.start(), 4)
    for node in n.nodes:
        node.op_type = node.op_type.replace("Quant", "IntQuant")


def _fraction(n: Drawn) -> None:
    x = n.node("Mul", ["images", n.constant(1 / 255)])
    x = n.node("Sub", [x, n.constant(np.array([0.48, 0.45, 0.41]).reshape(1, 3, 1, 1))])
    x = n.node("Div", [x, n.constant(np.array([0.23, 0.22, 0.24]).reshape(3, 1, 1))])
    x = n.quant(x, 0.02, 8)
    x = n.quant(n.node("Relu", [n.conv(x, 4, 3)]), 0.2, 4, signed=False)
    n.head(x, 4)


def _unquantized_image(n: Drawn) -> None:
    x = n.node("Mul", [n.node("Sub", ["images", n.constant(100.0)]), n.constant(0.01)])
    n.head(n.quant(n.node("Relu", [n.conv(x, 4, 3)]), 0.2, 4, signed=False), 4)


def _asymmetric(n: Drawn) -> None:
    x = n.quant(n.conv(n.start(), 6, 4), 0.03, 8, signed=False, zero=101.0)
    n.head(n.quant(n.conv(x, 4, 6), 0.11, 8, zero=-20.0), 4)


def _lopsided(n: Drawn) -> None:
    """uint8 of zero point 147, as ONNX Runtime's quantizer writes."""
    n.head(n.quant(n.conv(n.start(), 4, 4), 0.03, 8, signed=False, zero=147.0), 4)


def _sum_of_scales(n: Drawn) -> None:
    a = n.start()
    b = n.quant(n.conv(a, 4, 4), 0.07, 8)
    x = n.node("Relu", [n.node("Add", [a, b])])
    n.head(n.quant(x, 0.05, 8, signed=False), 4)


def _normalized_sum(n: Drawn) -> None:
    """As in pre-activation networks: the sum goes on, and into a normalization."""
    a = n.start()
    b = n.quant(n.node("Relu", [n.conv(a, 4, 4)]), 0.11, 4, signed=False)
    total = n.node("Add", [a, b])
    parts = [n.constant(v) for v in ([1.0, -0.7, 0.4, 2.0], [0.3, 0.1, -0.2, 0.0], [0.1] * 4)]
    x = n.node("BatchNormalization", [total, *parts, n.constant(np.ones(4))], epsilon=1e-5)
    x = n.quant(n.node("Relu", [x]), 0.05, 8, signed=False)
    c = n.quant(n.conv(x, 4, 4), 0.11, 8)
    total = n.quant(total, 0.11, 8)
    n.head(n.quant(n.node("Add", [total, c]), 0.11, 8), 4)


def _three_summands(n: Drawn) -> None:
    a = n.start()
    b, c = (n.quant(n.node("Relu", [n.conv(a, 4, 4)]), 0.11, 4, signed=False) for _ in "bc")
    total = n.node("Add", [n.node("Add", [a, b]), c])
    n.head(n.quant(n.node("Relu", [total]), 0.17, 5, signed=False), 4)


def _product_of_scales(n: Drawn) -> None:
    a = n.start()
    gate = n.quant(n.node("GlobalAveragePool", [a]), 0.03, 8)
    gate = n.quant(n.node("Sigmoid", [gate]), 1 / 100, 8, signed=False)
    n.head(n.quant(n.node("Mul", [a, gate]), 0.013, 8), 4)


def _concat_of_scales(n: Drawn) -> None:
    a = n.start()
    b = n.quant(n.conv(a, 4, 4), 0.07, 8)
    joined = n.node("Concat", [a, b], axis=1)
    n.head(n.quant(joined, 0.06, 8), 8)


def _leaky(n: Drawn) -> None:
    x = n.node("LeakyRelu", [n.conv(n.start(), 4, 4)], alpha=0.1)
    n.head(n.quant(x, 0.05, 8), 4)


def _prelu(n: Drawn) -> None:
    slope = n.constant(np.array([0.1, 0.3, 0.0, 1.0]).reshape(4, 1, 1))
    n.head(n.quant(n.node("PRelu", [n.conv(n.start(), 4, 4), slope]), 0.05, 8), 4)


def _one_bit(n: Drawn) -> None:
    x = n.conv(n.start(), 4, 4)
    parts = [n.constant(v) for v in ([1.0, -0.7, 0.4, 2.0], [0.3, 0.1, -0.2, 0.0], [0.0] * 4)]
    x = n.node("BatchNormalization", [x, *parts, n.constant(np.ones(4))], epsilon=1e-5)
    x = n.node("BipolarQuant", [x, n.constant(0.5)], domain=QONNX)
    weights = n.constant(n.rng.normal(0, 1, (4, 4, 3, 3)))
    weights = n.node("BipolarQuant", [weights, n.constant(0.1)], domain=QONNX)
    x = n.node("Conv", [x, weights], kernel_shape=[3, 3], pads=[1] * 4)
    n.head(n.quant(x, 0.05, 8), 4)


def _hidden(n: Drawn) -> None:
    x = n.node("MaxPool", [n.start()], kernel_shape=[4, 4], strides=[4, 4])
    x = n.node("Reshape", [x, n.constant([1, -1], np.int64)])
    weights = n.node("Transpose", [n.weights(8, 36)], perm=[1, 0])
    x = n.node("Add", [n.node("MatMul", [x, weights]), n.constant(n.rng.normal(0, 0.1, 8))])
    x = n.quant(n.node("Relu", [x]), 0.1, 4, signed=False)
    weights = n.node("Transpose", [n.weights(5, 8)], perm=[1, 0])
    x = n.node("MatMul", [x, weights])
    x = n.node("Div", [n.node("Sub", [x, n.constant(1.2)]), n.constant(1.7)])
    n.node("Mul", [x, n.constant([0.8, -1.0, 1.1, 0.4, 0.9])], "logits")


def _average(n: Drawn) -> None:
    x = n.node("AveragePool", [n.start()], kernel_shape=[3, 3], strides=[3, 3])
    n.head(n.quant(x, 0.031, 8), 4)


def _truncated(n: Drawn) -> None:
    x = n.node("AveragePool", [n.start()], kernel_shape=[2, 2], strides=[2, 2])
    x = n.node("Mul", [x, n.constant(4.0)])
    x = n.node(
        "Trunc",
        [x, *(n.constant(v) for v in (0.11, 0.0, 6.0, 4.0))],
        domain=QONNX,
        rounding_mode="FLOOR",
    )
    n.head(x, 4)


def _channel_map(n: Drawn) -> None:
    parts = [n.constant(v) for v in ([1.0, -0.7, 0.4, 2.0], [0.3, 0.1, -0.2, 0.0], [0.1] * 4)]
    x = n.node("BatchNormalization", [n.start(), *parts, n.constant(np.ones(4))], epsilon=1e-5)
    n.head(n.quant(n.node("Relu", [x]), 0.05, 5, signed=False), 4)


def _stored_gains(n: Drawn) -> None:
    gains = n.dequantized([100, -70, 40, 127], 0.01)
    parts = [n.constant(v) for v in ([0.3, 0.1, -0.2, 0.0], [0.1] * 4, np.ones(4))]
    x = n.node("BatchNormalization", [n.start(), gains, *parts], epsilon=1e-5)
    n.head(n.quant(n.node("Relu", [x]), 0.05, 5, signed=False), 4)


def _stored_border(n: Drawn) -> None:
    pads = n.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    x = n.node("Pad", [n.start(), pads, n.dequantized(11, 0.04)], mode="constant")
    n.head(n.quant(n.conv(n.quant(x, 0.11, 4, signed=False), 4, 4, pads=[0] * 4), 0.11, 8), 4)


def _stored_bounds(n: Drawn) -> None:
    bounds = [n.dequantized(code, 0.01) for code in (0, 90)]
    x = n.node("Clip", [n.conv(n.start(), 4, 4), *bounds])
    n.head(n.quant(x, 0.05, 5, signed=False), 4)


def _stored_slopes(n: Drawn) -> None:
    slopes = n.dequantized(np.array([10, 30, 0, 100]).reshape(4, 1, 1), 0.01)
    n.head(n.quant(n.node("PRelu", [n.conv(n.start(), 4, 4), slopes]), 0.05, 8), 4)


def _slope_of_codes(n: Drawn) -> None:
    x = n.quant(n.conv(n.start(), 4, 4), 0.05, 8)
    slope = n.dequantized(np.full((1, 1, 1), 25), 0.01)
    n.head(n.quant(n.node("PRelu", [x, slope]), 0.043, 8), 4)


def _slopes_of_codes(n: Drawn) -> None:
    x = n.quant(n.conv(n.start(), 4, 4), 0.05, 8, signed=False, zero=117.0)
    slopes = n.constant(np.array([0.1, 0.3, 0.0, 1.0]).reshape(4, 1, 1))
    n.head(n.quant(n.node("PRelu", [x, slopes]), 0.043, 8, signed=False, zero=40.0), 4)


def _pool_then_quantizer(n: Drawn) -> None:
    x = n.node("MaxPool", [n.conv(n.start(), 4, 4)], kernel_shape=[2, 2], strides=[2, 2])
    n.head(n.quant(n.node("Relu", [x]), 0.07, 4, signed=False), 4)


def _mean_without_quantizer(n: Drawn) -> None:
    x = n.node("Flatten", [n.node("GlobalAveragePool", [n.start()])], axis=1)
    n.node("Gemm", [x, n.weights(5, 4, bits=8)], "logits", transB=1)


def _average_that_is_read(n: Drawn) -> None:
    x = n.node(
        "AveragePool", [n.start()], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4,
        count_include_pad=1,
    )  # fmt: skip
    n.head(n.quant(n.node("Relu", [n.conv(x, 4, 4)]), 0.09, 4, signed=False), 4)


def _signed_average_that_is_read(n: Drawn) -> None:
    x = n.quant(n.conv(n.start(), 4, 4), 0.2, 5)
    x = n.node("AveragePool", [x], kernel_shape=[2, 3], strides=[2, 3])
    n.head(n.quant(n.conv(x, 4, 4), 0.05, 8), 4)


def _window_of_the_whole_map(n: Drawn) -> None:
    x = n.node("AveragePool", [n.start()], kernel_shape=[SIZE, SIZE])
    n.node("Gemm", [n.node("Flatten", [x]), n.weights(5, 4, bits=8)], "logits", transB=1)


def _quantized_logits(n: Drawn) -> None:
    x = n.head(n.start(), 4)
    x = n.quant(x, 0.01, 8)
    n.nodes[-1].output[0] = "end"


KINDS: dict[str, tuple[Callable[[Drawn], None], str]] = {
    "an image divided": (_divided, "the image's bytes, zero point 128"),
    "IntQuant": (_intquant, "QLinearConv"),
    "mean and deviation of channels": (_fraction, "a table for each of 3 channels"),
    "an image that nobody quantizes": (_unquantized_image, "zero point 100"),
    "zero points": (_asymmetric, "zero point 101"),
    "a sum of two scales": (_sum_of_scales, "table of pairs"),
    "a sum before a normalization": (_normalized_sum, "QLinearConv, 2-bit weights"),
    "a sum of three": (_three_summands, "QLinearConv, 2-bit weights"),
    "a product of two scales": (_product_of_scales, "table of pairs"),
    "joined at two scales": (_concat_of_scales, "Concat of codes"),
    "LeakyRelu of a sum": (_leaky, "above and below 0"),
    "PRelu of channels": (_prelu, "above and below 0"),
    "gains that are stored codes": (_stored_gains, "channel map"),
    "a border that is a stored code": (_stored_border, "Pad of codes"),
    "bounds that are stored codes": (_stored_bounds, "codes 0…18"),
    "slopes that are stored codes": (_stored_slopes, "above and below 0"),
    "PRelu of codes": (_slope_of_codes, "table of"),
    "PRelu of codes, of channels": (_slopes_of_codes, "above and below 0"),
    "one bit": (_one_bit, "sign of a sum"),
    "hidden linear layers": (_hidden, "hidden linear"),
    "an average of windows": (_average, "mean of 3×3"),
    "a truncated average": (_truncated, "sum of a window / 4"),
    "a normalization by itself": (_channel_map, "channel map"),
    "a pool before the quantizer": (_pool_then_quantizer, "MaxPool of codes"),
    "a mean without quantizer": (_mean_without_quantizer, "QGemm"),
    "an average that a layer reads": (_average_that_is_read, "mean of 3×3"),
    "of signed codes": (_signed_average_that_is_read, "mean of 2×3"),
    "a window of the whole map": (_window_of_the_whole_map, "QGemm"),
    "quantized logits": (_quantized_logits, "QGemm"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_this_kind_is_lowered_to_its_sources_numbers(kind: str, tmp_path: Path) -> None:
    build, written = KINDS[kind]
    drawn = Drawn()
    build(drawn)
    output = "end" if kind == "quantized logits" else "logits"
    made = taken(drawn.save(tmp_path / "q.onnx", output), tmp_path)
    assert any(written in line for line in made.log), made.log


def test_what_is_run_by_itself_is_what_the_qonnx_package_computes(tmp_path: Path) -> None:
    for kind in ("one bit", "zero points", "a truncated average", "IntQuant"):
        drawn = Drawn()
        KINDS[kind][0](drawn)
        path = tmp_path / "q.onnx"
        ModelWrapper(drawn.model()).transform(InferShapes()).save(str(path))
        ours = SourceRun(path).run(images(2).astype(np.float32))[""]
        theirs = execute_qonnx(path, images(2))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=kind)


def test_parameters_in_constant_nodes_and_outputs_without_a_shape(tmp_path: Path) -> None:
    drawn = Drawn()
    _divided(drawn)
    model = drawn.model()
    nodes = [
        helper.make_node("Constant", [], [one.name], name=f"k{one.name}", value=one)
        for one in model.graph.initializer
    ]
    nodes += list(model.graph.node)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "q.onnx")
    taken(tmp_path / "q.onnx", tmp_path)


def test_what_follows_the_logits_is_left_out_and_said(tmp_path: Path) -> None:
    drawn = Drawn()
    _divided(drawn)
    drawn.node("ArgMax", ["logits"], "label", axis=1)
    made = taken(drawn.save(tmp_path / "q.onnx", "label", kind=TensorProto.INT64), tmp_path)
    assert "'label' (ArgMax) is left out" in made.log[0]
    assert OnnxRuntimeEngine(made.path).classes == 5


@pytest.mark.parametrize("function", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize("end", ["values", "codes", "class"])
def test_a_function_of_the_logits_is_left_out_with_its_codes(
    function: str, end: str, tmp_path: Path
) -> None:
    """ONNX Runtime's quantizer quantizes the last Softmax too."""
    drawn = Drawn()
    _divided(drawn)
    scale, zero = drawn.constant(1 / 256), drawn.constant(0, np.uint8)
    x = drawn.node(function, ["logits"], "function")
    x = drawn.node("QuantizeLinear", [x, scale, zero], "codes")
    if end != "codes":
        x = drawn.node("DequantizeLinear", [x, scale, zero], "values")
    if end == "class":
        x = drawn.node("ArgMax", [x], "class", axis=1)
    kinds = {"values": TensorProto.FLOAT, "codes": TensorProto.UINT8, "class": TensorProto.INT64}
    made = taken(drawn.save(tmp_path / "q.onnx", x, kind=kinds[end]), tmp_path)
    assert any(f"'function' ({function}) is left out" in line for line in made.log)
    plain = Drawn()
    _divided(plain)
    alone = lower(plain.save(tmp_path / "plain.onnx"), tmp_path / "plain-integer.onnx")
    with OnnxRuntimeEngine(made.path) as ours, OnnxRuntimeEngine(alone.path) as theirs:
        np.testing.assert_array_equal(ours.run(images()), theirs.run(images()))


def test_channels_last_images_are_taken_channels_first(tmp_path: Path) -> None:
    drawn = Drawn((1, SIZE, SIZE, 3))
    x = drawn.node("Transpose", ["images"], perm=[0, 3, 1, 2])
    x = drawn.node("Mul", [drawn.node("Sub", [x, drawn.constant(128.0)]), drawn.constant(2**-6)])
    x = drawn.conv(drawn.quant(x, 2.0**-6, 8), 4, 3)
    drawn.head(drawn.quant(drawn.node("Relu", [x]), 0.11, 4, signed=False), 4)
    taken(drawn.save(tmp_path / "q.onnx"), tmp_path)


def test_open_height_and_width_are_asked_for(tmp_path: Path) -> None:
    drawn = Drawn()
    _divided(drawn)
    model = drawn.model()
    for side, name in zip(model.graph.input[0].type.tensor_type.shape.dim, "NCHW", strict=True):
        if name in "NHW":
            side.dim_param = name
    onnx.save(model, tmp_path / "q.onnx")
    with pytest.raises(InputError, match=r"open×3×open×open, but height, width .*--size"):
        lower(tmp_path / "q.onnx", tmp_path / "i.onnx")
    made = taken(tmp_path / "q.onnx", tmp_path, ImageForm(size=(8, 8)))
    assert OnnxRuntimeEngine(made.path).input_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("arrays", "error", "said"),
    [
        (np.uint8(7), InputError, r"i\.npz: expected images of shape N×3×H×W"),
        (np.zeros((2, 3, 8, 8)), InputError, r"i\.npz: expected images as uint8 .* got float64"),
        (np.zeros((0, 3, 8, 8), np.uint8), NothingToEvaluate, r"i\.npz: "),
    ],
)
def test_images_that_are_none_are_one_error(
    arrays: Any, error: type[Exception], said: str, tmp_path: Path
) -> None:
    source = tmp_path / "q.onnx"
    source.write_bytes(small_qonnx(np.random.default_rng(0)).SerializeToString())
    np.savez(tmp_path / "i.npz", images=arrays)
    settings = LowerSettings(images=tmp_path / "i.npz")
    with pytest.raises(error, match=said):
        lower_file(source, tmp_path / "out.onnx", ImageForm(), settings)
    assert not (tmp_path / "out.onnx").exists()


def test_an_image_of_fractions_is_asked_for_and_taken(tmp_path: Path) -> None:
    drawn = Drawn()
    x = drawn.quant(drawn.node("Sub", ["images", drawn.constant(0.5)]), 2.0**-7, 8)
    drawn.head(drawn.quant(drawn.conv(x, 4, 3), 0.05, 8), 4)
    path = drawn.save(tmp_path / "q.onnx")
    with pytest.raises(LoweringError, match=r"clips 25\d; .*--mean, --std"):
        lower(path, tmp_path / "i.onnx")
    taken(path, tmp_path, ImageForm(mean=(0.0,), std=(1.0,)))
    with pytest.raises(UsageError, match="belong together"):
        ImageForm(mean=(0.0,))


def _input_scales(n: Drawn) -> None:
    scale = np.linspace(0.02, 0.2, 4).reshape(1, 4, 1, 1)
    weights = n.quant(n.constant(n.rng.normal(0, 0.3, (4, 4, 3, 3))), scale, 4)
    x = n.node("Conv", [n.start(), weights], kernel_shape=[3, 3], pads=[1] * 4)
    n.head(n.quant(x, 0.05, 8), 4)


def _unsigned_weights(n: Drawn) -> None:
    values = np.abs(n.rng.normal(0, 0.3, (4, 4, 3, 3)))
    weights = n.quant(n.constant(values), 0.003, 8, signed=False)
    x = n.node("Conv", [n.start(), weights], kernel_shape=[3, 3], pads=[1] * 4)
    n.head(n.quant(x, 0.05, 8), 4)


def _sigmoid(n: Drawn) -> None:
    n.head(n.quant(n.node("Sigmoid", [n.conv(n.start(), 4, 4)]), 1 / 15, 4, signed=False), 4)


def _transposed(n: Drawn) -> None:
    x = n.node("ConvTranspose", [n.start(), n.weights(4, 4, 2, 2)], kernel_shape=[2, 2])
    n.head(n.quant(x, 0.05, 8), 4)


def _large_average(n: Drawn) -> None:
    """25 codes of 4 bits are up to 375."""
    x = n.node("AveragePool", [n.start()], kernel_shape=[5, 5])
    n.head(n.quant(n.conv(x, 4, 4), 0.05, 8), 4)


def _another_domain(n: Drawn) -> None:
    n.head(n.start(), 4)
    next(node for node in n.nodes if node.op_type == "Conv").domain = "com.vendor"


def _another_rounding(n: Drawn) -> None:
    n.head(n.quant(n.conv(n.start(), 4, 4), 0.05, 8, rounding_mode="FLOOR"), 4)


REFUSED = {
    "scales of input channels": (
        _input_scales,
        r"neither one weight scale nor one per output channel",
    ),
    "unsigned weights": (_unsigned_weights, r"weight codes are 0…\d+, .*unsigned"),
    "a function of a sum": (
        _sigmoid,
        r"\(Sigmoid\) and before .*, pair table: 'sigmoid\d+' \(Sigmoid\) is a function of a sum",
    ),
    "ConvTranspose": (_transposed, r"no pass supports 'convtranspose\d+' \(ConvTranspose\)"),
    "an average beyond a byte": (
        _large_average,
        r"'averagepool\d+', of 'averagepool\d+' \(AveragePool\), has no integer codes",
    ),
    "another domain": (_another_domain, r"'conv\d+' \(Conv\).*the domain 'com.vendor'"),
    "another rounding": (_another_rounding, r"\(Quant\): rounding mode FLOOR"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_names_operator_and_layer(kind: str, tmp_path: Path) -> None:
    build, words = REFUSED[kind]
    drawn = Drawn()
    build(drawn)
    with pytest.raises((LoweringError, InputError), match=words) as caught:
        lower(drawn.save(tmp_path / "q.onnx"), tmp_path / "i.onnx")
    assert "malformed" not in str(caught.value)
    assert "BatchNorm" not in str(caught.value)
    assert not (tmp_path / "i.onnx").exists()


@pytest.mark.parametrize(
    ("build", "target", "words"),
    [
        (_fraction, "qcdq", r"only the target onnxruntime has a table for them; lower to that"),
        (_fraction, "qcdq", r"codes of zero point 0…255, .*, the mean a whole number / 255"),
        (_unquantized_image, "tensorrt", r"codes of zero point 128, .*, the mean 128 / 255"),
        (_lopsided, "tensorrt", r"codes -147…108 of zero point 0 do not fit into int8.*QInt8"),
    ],
)  # fmt: skip
def test_what_other_targets_do_not_take_is_refused_with_the_cure(
    build: Callable[[Drawn], None], target: str, words: str, tmp_path: Path
) -> None:
    drawn = Drawn()
    build(drawn)
    path = drawn.save(tmp_path / "q.onnx")
    with pytest.raises(LoweringError, match=words):
        lower(path, tmp_path / "i.onnx", target=target)
    assert lower(path, tmp_path / "i.onnx").guarantees


def test_a_signal_is_no_image(tmp_path: Path) -> None:
    drawn = Drawn((1, 3, 32))
    x = drawn.quant("images", 0.1, 8)
    x = drawn.node("Conv", [x, drawn.weights(4, 3, 3)], kernel_shape=[3])
    drawn.quant(x, 0.1, 8)
    with pytest.raises(InputError, match=r"1×3×32, a signal of one dimension .* 1-D"):
        lower(drawn.save(tmp_path / "q.onnx", x), tmp_path / "i.onnx")


def test_a_lowering_that_is_not_its_source_is_never_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn()
    _sum_of_scales(drawn)
    path, out = drawn.save(tmp_path / "q.onnx"), tmp_path / "i.onnx"
    lower(path, out)
    before = out.read_bytes()
    wrong = "export.passes.pair_table.evaluate_pair"
    monkeypatch.setattr(wrong, lambda expression, x, y: 1.1 * np.maximum(x + y, 0.0))
    with pytest.raises(SourceError, match=r"codes of .* differ from the source's"):
        lower(path, out)
    assert out.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".candidate")] == []


def test_2_bit_layers_keep_their_float_biases(tmp_path: Path) -> None:
    drawn = Drawn()
    x = drawn.start()
    weights = drawn.weights(8, 4, 3, 3, bits=2)
    x = drawn.node("Conv", [x, weights], kernel_shape=[3, 3], pads=[1] * 4)
    parts = [drawn.rng.uniform(0.7, 1.3, 8), drawn.rng.normal(0, 0.4, 8), np.zeros(8), np.ones(8)]
    x = drawn.node("BatchNormalization", [x, *map(drawn.constant, parts)])
    drawn.head(drawn.quant(drawn.node("Relu", [x]), 0.5, 2, signed=False), 8)
    made = taken(drawn.save(tmp_path / "q.onnx"), tmp_path)
    assert any("weights times 127 for the bias" in line for line in made.log)


def test_the_command_writes_file_sidecar_and_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = Drawn()
    _sum_of_scales(drawn)
    path, out = drawn.save(tmp_path / "q.onnx"), tmp_path / "i.onnx"
    np.savez(tmp_path / "x.npz", images=images(8).transpose(0, 2, 3, 1))
    given = ["--images", str(tmp_path / "x.npz"), "--explain"]
    assert main(["lower", str(path), "--out", str(out), *given]) == 0
    printed = capsys.readouterr().out
    assert "against the source file run by itself" in printed
    assert "table of pairs" in printed
    assert "integer: 2 of 2 convolutions integer" in printed
    facts = json.loads(out.with_suffix(".json").read_text())
    assert facts["comparison"]["logits"]["images"] == 8
    assert json.loads(out.with_suffix(".certificate.json").read_text())["ok"]
    assert main(["lower", str(path), "--out", str(path)]) == 4
    assert main(["inspect", str(path)]) == 2
    assert "qadtr lower" in capsys.readouterr().err


FOLDER = os.environ.get("QADTR_PUBLIC_QONNX")


@pytest.mark.skipif(FOLDER is None, reason="QADTR_PUBLIC_QONNX names no folder of public files")
@pytest.mark.parametrize("name", ["TFC_2W2A", "minimobilenet"])
def test_public_networks(name: str, tmp_path: Path) -> None:
    path = Path(FOLDER or "") / f"{name}.onnx"
    if name == "minimobilenet":
        with pytest.raises(InputError, match=r"'RequantShift_1' \(RequantShift\).*ONNX's own"):
            lower(path, tmp_path / "i.onnx")
        return
    made = lower(path, tmp_path / "i.onnx", form=ImageForm(mean=(0.0,), std=(1.0,)))
    assert made.source is not None
    assert sum(one.different for one in made.source.layers) == 0
    assert certify(made.path).ok
