from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.host import host_facts
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from export.parity import check_parity
from export.reference import IntegerReference, NotReproducible, UnsupportedGraph, limits
from export.reference.arithmetic import Convolution, add_table, padded
from export.reference.errors import TooLarge
from tests.export.integer_graphs import (
    MICROSOFT,
    IntegerGraph,
    random_graph,
    random_images,
    residual_graph,
)

ROOT = Path(__file__).resolve().parents[2]
ALL = np.arange(256, dtype=np.uint8)


def onnxruntime_gives(
    operator: str,
    inputs: list[str],
    arrays: dict[str, Any],
    images: NDArray[np.uint8],
    *,
    other: NDArray[np.uint8] | None = None,
    domain: str = MICROSOFT,
    output: int = TensorProto.UINT8,
    **attributes: Any,
) -> NDArray[Any]:
    """What ONNX Runtime computes for one node."""
    node = helper.make_node(operator, inputs, ["y"], domain=domain, **attributes)
    fed = {"x": images} | ({} if other is None else {"z": other})
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, TensorProto.UINT8, list(value.shape))
            for name, value in fed.items()
        ],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if host_facts().u8s8_saturates:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    result: NDArray[Any] = session.run(None, fed)[0]
    return result


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


# ------------------------------------------------------------------ QLinearConv

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "3×3": {},
    "3×3, stride 2": {"stride": 2},
    "3×3, no padding": {"pad": 0},
    "1×1": {"kernel": 1},
    "1×1, stride 2": {"kernel": 1, "stride": 2},
    "5×5, stride 2": {"kernel": 5, "stride": 2},
    "two groups": {"groups": 2},
    "depthwise": {"groups": 8},
    "depthwise, stride 2": {"groups": 8, "stride": 2},
    "dilated": {"dilation": 2, "pad": 2},
    "per tensor": {"per_channel": False},
    "signed output": {"zero_point": 128},
    "4-bit weights": {"bits": 4},
    "2-bit weights": {"bits": 2},
}


@pytest.mark.parametrize("x_zero_point", [0, 128])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_equal_the_engine_on_every_code(
    case: str, x_zero_point: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(len(case) + x_zero_point)
    graph = IntegerGraph(rng, size=16, opset=25)
    before = graph.conv("images", 8, "before", zero_point=x_zero_point)
    graph.head(graph.conv(before, 8, "layer", **CONVOLUTIONS[case]))
    images = random_images(rng, 64, 16)
    parity = check_parity(graph.save(tmp_path / "conv.onnx"), images)
    assert [layer.different for layer in parity.layers] == [0] * 4
    assert parity.logits_different == 0
    assert parity.layers[1].distinct_codes > 30
    assert parity.layers[1].values >= 16_384


def slow_convolution(layer: Convolution, x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The definition, one output at a time, in Python integers."""
    n, _, height, width = x.shape
    outputs, per_group, kh, kw = layer.weight.shape
    top, left, bottom, right = layer.pads
    (sh, sw), (dh, dw) = layer.strides, layer.dilations
    out_h = (height + top + bottom - dh * (kh - 1) - 1) // sh + 1
    out_w = (width + left + right - dw * (kw - 1) - 1) // sw + 1
    y = np.zeros((n, outputs, out_h, out_w), np.uint8)
    for image, o, row, column in product(range(n), range(outputs), range(out_h), range(out_w)):
        total = int(layer.bias[o])
        first = o // (outputs // layer.groups) * per_group
        for c, i, j in product(range(per_group), range(kh), range(kw)):
            h, w = row * sh + i * dh - top, column * sw + j * dw - left
            if 0 <= h < height and 0 <= w < width:
                code = int(x[image, first + c, h, w]) - layer.x_zero_point
                total += code * int(layer.weight[o, c, i, j])
        real = np.float32(total) * layer.multiplier[o]
        y[image, o, row, column] = min(max(round(float(real)) + layer.y_zero_point, 0), 255)
    return y


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_convolution_equals_its_definition(groups: int, strides: tuple[int, int]) -> None:
    rng = np.random.default_rng(groups)
    layer = Convolution(
        what="layer",
        weight=rng.integers(-127, 128, (4, 4 // groups, 3, 2)).astype(np.int32),
        bias=rng.integers(-1000, 1000, 4),
        multiplier=rng.uniform(0.001, 0.004, 4).astype(np.float32),
        x_zero_point=100,
        y_zero_point=128,
        strides=strides,
        dilations=(1, 2),
        pads=(0, 1, 2, 3),
        groups=groups,
    )
    x = rng.integers(0, 256, (2, 4, 7, 6), dtype=np.uint8)
    codes = layer(x)
    np.testing.assert_array_equal(codes, slow_convolution(layer, x))
    assert len(np.unique(codes)) > 50


def conv_arrays(weight: NDArray[np.int8], bias: NDArray[np.int32], sy: float) -> dict[str, Any]:
    return {
        "sx": np.float32(1),
        "zx": np.uint8(0),
        "w": weight,
        "sw": np.float32(1),
        "zw": np.int8(0),
        "sy": np.float32(sy),
        "zy": np.uint8(0),
        "b": bias,
    }


CONV_INPUTS = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"]


def test_convolution_rounds_ties_to_even_as_the_engine_does() -> None:
    x = ALL.reshape(1, 1, 16, 16)
    weight, bias = np.ones((1, 1, 1, 1), np.int8), np.zeros(1, np.int32)
    layer = Convolution(
        what="layer",
        weight=weight.astype(np.int32),
        bias=bias.astype(np.int64),
        multiplier=np.array([0.5], np.float32),
        x_zero_point=0,
        y_zero_point=0,
        strides=(1, 1),
        dilations=(1, 1),
        pads=(0, 0, 0, 0),
        groups=1,
    )
    engine = onnxruntime_gives(
        "QLinearConv", CONV_INPUTS, conv_arrays(weight, bias, 2), x, domain=""
    )
    np.testing.assert_array_equal(layer(x), engine)
    assert layer(x).reshape(-1)[:8].tolist() == [0, 0, 1, 2, 2, 2, 3, 4]


def test_accumulators_beyond_what_float32_holds_are_exact() -> None:
    # 640 inputs of up to 255 with weights of 127 reach 20.7 million > 2²⁴ = 16.8 million.
    rng = np.random.default_rng(0)
    x = rng.integers(240, 256, (64, 640, 4, 4), dtype=np.uint8)
    weight = rng.integers(120, 128, (8, 640, 1, 1)).astype(np.int8)
    bias = np.arange(-19_000_000, -19_000_000 + 8, dtype=np.int32)
    layer = Convolution(
        what="layer",
        weight=weight.astype(np.int32),
        bias=bias.astype(np.int64),
        multiplier=np.full(8, np.float32(1) / np.float32(3000)),
        x_zero_point=0,
        y_zero_point=0,
        strides=(1, 1),
        dilations=(1, 1),
        pads=(0, 0, 0, 0),
        groups=1,
    )
    assert layer._dtype is np.float64
    arrays = conv_arrays(weight, bias, 3000)
    engine = onnxruntime_gives("QLinearConv", CONV_INPUTS, arrays, x, domain="")
    np.testing.assert_array_equal(layer(x), engine)
    assert len(np.unique(engine)) > 30


def test_a_bias_beyond_32_bit_accumulators_is_refused() -> None:
    with pytest.raises(UnsupportedGraph, match=r"layer7.*32-bit"):
        Convolution(
            what="layer7",
            weight=np.full((1, 1, 1, 1), 127, np.int32),
            bias=np.array([2**31 - 100]),
            multiplier=np.ones(1, np.float32),
            x_zero_point=0,
            y_zero_point=0,
            strides=(1, 1),
            dilations=(1, 1),
            pads=(0, 0, 0, 0),
            groups=1,
        )


# ------------------------------------------------------------------ QLinearAdd

ADD_INPUTS = ["x", "sa", "za", "z", "sb", "zb", "sc", "zc"]


@pytest.mark.parametrize("scale", [0.05, 2**-6, 0.037109375001, 1.7])
@pytest.mark.parametrize("zero_points", [(128, 0, 0), (0, 128, 0), (128, 128, 128), (3, 5, 7)])
def test_addition_of_one_scale_equals_the_engine_on_all_pairs(
    scale: float, zero_points: tuple[int, int, int]
) -> None:
    s = np.float32(scale)
    table = add_table(
        what="add", scales=(s, s, s), zero_points=zero_points, a_codes=ALL, b_codes=ALL
    )
    a, b = np.repeat(ALL, 256).reshape(1, 1, 256, 256), np.tile(ALL, 256).reshape(1, 1, 256, 256)
    za, zb, zc = (np.uint8(point) for point in zero_points)
    arrays = {"sa": s, "za": za, "sb": s, "zb": zb, "sc": s, "zc": zc}
    engine = onnxruntime_gives("QLinearAdd", ADD_INPUTS, arrays, a, other=b)
    np.testing.assert_array_equal(table, engine.reshape(256, 256))
    exact = np.add.outer(ALL.astype(int) - zero_points[0], ALL.astype(int) - zero_points[1])
    np.testing.assert_array_equal(table, np.clip(exact + zero_points[2], 0, 255))


@pytest.mark.parametrize("ratio", [1, 3, 5, 17, 51, 85, 127, 255])
@pytest.mark.parametrize("zero_point", [0, 128])
def test_requantization_by_an_odd_ratio_equals_the_engine_on_all_codes(
    ratio: int, zero_point: int
) -> None:
    rng = np.random.default_rng(ratio)
    for sa in rng.uniform(1e-4, 1, 8).astype(np.float32):
        sc = np.float32(sa * np.float32(ratio))
        table = add_table(
            what="requantize",
            scales=(sa, sa, sc),
            zero_points=(zero_point, 0, zero_point),
            a_codes=ALL,
            b_codes=np.array([0]),
        )
        point, none = np.uint8(zero_point), np.uint8(0)
        arrays = {"sa": sa, "za": point, "z": none, "sb": sa, "zb": none, "sc": sc, "zc": point}
        engine = onnxruntime_gives("QLinearAdd", ADD_INPUTS, arrays, ALL.reshape(1, 1, 16, 16))
        np.testing.assert_array_equal(table.reshape(-1), engine.reshape(-1))


@pytest.mark.parametrize("ratio", [2, 4, 6, 254])
def test_requantization_by_an_even_ratio_is_refused(ratio: int) -> None:
    s = np.float32(0.1)
    with pytest.raises(NotReproducible, match=r"node 'r'.*tie.*odd"):
        add_table(
            what="node 'r'",
            scales=(s, s, np.float32(s * ratio)),
            zero_points=(0, 0, 0),
            a_codes=ALL,
            b_codes=np.array([0]),
        )


def test_addition_of_two_scales_is_refused_because_engines_differ(tmp_path: Path) -> None:
    graph = residual_graph(np.random.default_rng(0))
    branch = "block_conv2.out.scale"
    graph.arrays[branch] = graph.arrays[branch] * np.float32(1.5)
    with pytest.raises(NotReproducible, match="block_add"):
        IntegerReference(graph.save(tmp_path / "scales.onnx"))


# ------------------------------------------------------------------ pools and logits


@pytest.mark.parametrize("channels_last", [0, 1])
@pytest.mark.parametrize("side", [1, 4, 7, 8, 14])
def test_average_pool_equals_the_engine(side: int, channels_last: int) -> None:
    from export.reference.arithmetic import global_average_pool

    rng = np.random.default_rng(side)
    inputs = ["x", "sx", "zx", "sy", "zy"]
    for zx, zy in ((0, 0), (128, 0), (128, 128)):
        high = rng.integers(2, 256, (64, 64, 1, 1))
        x = rng.integers(0, high, (64, 64, side, side)).astype(np.uint8)
        sx = np.float32(rng.uniform(0.01, 0.1))
        sy = np.float32(sx * rng.uniform(0.3, 1.2))
        arrays = {"sx": sx, "zx": np.uint8(zx), "sy": sy, "zy": np.uint8(zy)}
        positions = (1, 2) if channels_last else (2, 3)
        if channels_last:
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        engine = onnxruntime_gives(
            "QLinearGlobalAveragePool", inputs, arrays, x, channels_last=channels_last
        )
        ours = global_average_pool(x, positions, scales=(sx, sy), zero_points=(zx, zy))
        np.testing.assert_array_equal(ours, engine)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("transposed", [0, 1])
def test_logits_equal_the_engine(per_channel: bool, transposed: int) -> None:
    from export.reference.arithmetic import Dense

    rng = np.random.default_rng(transposed)
    weight = rng.integers(-127, 128, (64, 10)).astype(np.int8)
    bias = rng.integers(-20_000, 20_000, 10).astype(np.int32)
    x = rng.integers(0, 256, (5_000, 64), dtype=np.uint8)
    sx = np.float32(0.0371)
    sw = rng.uniform(0.001, 0.01, 10).astype(np.float32) if per_channel else np.float32(0.0077)
    arrays = {
        "sx": sx,
        "zx": np.uint8(7),
        "w": weight.T.copy() if transposed else weight,
        "sw": sw,
        "zw": np.zeros(np.shape(sw), np.int8),
        "b": bias,
    }
    engine = onnxruntime_gives(
        "QGemm", [*CONV_INPUTS[:6], "b"], arrays, x, output=TensorProto.FLOAT,
        transB=transposed,
    )  # fmt: skip
    layer = Dense(
        what="dense",
        weight=weight.astype(np.int32),
        bias=bias.astype(np.int64),
        scale=np.broadcast_to(sx * sw, 10).astype(np.float32),
        x_zero_point=7,
    )
    np.testing.assert_array_equal(layer(x), engine)


# ------------------------------------------------------------------ whole graphs


def test_random_graphs_equal_the_engine(tmp_path: Path) -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng)
        images = random_images(rng, 12, graph.size)
        path = graph.save(tmp_path / "random.onnx")
        with OnnxRuntimeEngine(path) as engine:
            logits = engine.run(images)
        np.testing.assert_array_equal(
            IntegerReference(path).run(images), logits, err_msg=f"seed {seed}"
        )


def test_batches_change_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    path = residual_graph(rng, bits=4).save(tmp_path / "residual.onnx")
    images = random_images(rng, 7, 8)
    one, all_at_once = IntegerReference(path, batch_size=1), IntegerReference(path, batch_size=7)
    np.testing.assert_array_equal(one.run(images), all_at_once.run(images))
    codes, others = one.codes(images), all_at_once.codes(images)
    assert list(codes) == list(others) == list(one.code_tensors)
    for name, values in codes.items():
        assert values.dtype == np.uint8
        np.testing.assert_array_equal(values, others[name])


def test_layers_and_codes_are_named_as_in_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    reference = IntegerReference(residual_graph(rng, bits=2).save(tmp_path / "residual.onnx"))
    assert [layer.name for layer in reference.layers] == [
        "stem", "stem_pool", "block_codes", "block_conv1", "block_clip1", "block_conv2",
        "block_add", "pool", "flatten", "dense",
    ]  # fmt: skip
    codes = reference.codes(random_images(rng, 5, 8))
    assert "logits" not in codes
    assert "images" not in codes
    assert codes["block_clip1.out"].max() <= 15
    assert codes["stem_pool.out"].shape == (5, 8, 4, 4)


def test_reference_imports_neither_engine_nor_lowering_nor_torch() -> None:
    code = (
        "import sys, export.reference\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('onnxruntime', 'torch', 'brevitas',"
        " 'qonnx') or m.startswith(('export.passes', 'export.lowering'))]\n"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------ refusals


def refuse(model: onnx.ModelProto, tmp_path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        IntegerReference(save(model, tmp_path / "refused.onnx"))
    for word in (*words, "refused.onnx"):
        assert word in str(caught.value)


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


@pytest.fixture
def model() -> onnx.ModelProto:
    return residual_graph(np.random.default_rng(1), bits=4).model()


def test_unknown_operator_names_the_node_and_what_is_known(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    node_named(model, "block_clip1").op_type = "Relu"
    refuse(model, tmp_path, "block_clip1", "Relu", "QLinearConv", "com.microsoft::QLinearAdd")


def test_operator_of_another_domain_is_another_operator(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    node_named(model, "stem").domain = MICROSOFT
    refuse(model, tmp_path, "stem", "com.microsoft", "QLinearConv")


def test_unknown_attribute_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    node_named(model, "stem").attribute.append(helper.make_attribute("channels_last", 1))
    refuse(model, tmp_path, "stem", "channels_last", "strides")


def test_attribute_value_that_is_not_defined_is_refused(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    node_named(model, "stem_pool").attribute.append(helper.make_attribute("ceil_mode", 1))
    refuse(model, tmp_path, "stem_pool", "ceil_mode")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_scales_that_are_none_are_refused(bad: float, tmp_path: Path) -> None:
    graph = residual_graph(np.random.default_rng(1))
    graph.arrays["stem.y_scale"] = np.array(bad, np.float32)
    refuse(graph.model(), tmp_path, "stem", "scale", "positive")


def test_computed_weights_and_wrong_types_are_refused(tmp_path: Path) -> None:
    graph = residual_graph(np.random.default_rng(1))
    graph.arrays["stem.weight"] = graph.arrays["stem.weight"].astype(np.uint8)
    refuse(graph.model(), tmp_path, "stem", "weight", "int8", "uint8")


def test_float_bias_is_refused(tmp_path: Path) -> None:
    graph = residual_graph(np.random.default_rng(1))
    graph.arrays["stem.bias"] = graph.arrays["stem.bias"].astype(np.float32)
    refuse(graph.model(), tmp_path, "stem", "bias", "int32", "float32")


def test_float_input_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    refuse(model, tmp_path, "images", "float", "uint8")


def test_images_that_do_not_fit_are_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    reference = IntegerReference(save(model, tmp_path / "model.onnx"))
    with pytest.raises(InputError, match="3×8×8"):
        reference.run(np.zeros((1, 3, 9, 9), np.uint8))
    with pytest.raises(InputError, match="uint8"):
        reference.run(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(NothingToEvaluate):
        reference.run(np.zeros((0, 3, 8, 8), np.uint8))


def test_an_array_that_would_take_all_memory_is_refused() -> None:
    small = np.zeros((1, 1, 2, 2), np.uint8)
    with pytest.raises(UnsupportedGraph, match="the file is damaged"):
        padded(small, [(0, 0), (0, 0), (0, 2**16), (0, 2**16)], 0)
    assert padded(small, [(0, 0), (0, 0), (1, 1), (0, 3)], 7).shape == (1, 1, 4, 5)


def test_a_batch_too_large_is_computed_in_halves(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(model, tmp_path / "large.onnx")
    images = random_images(np.random.default_rng(0), 5, 8)
    logits, codes = next(IntegerReference(path).batches(images))
    largest = max(values[0].size for values in codes.values())
    monkeypatch.setattr(limits, "MOST_VALUES", 4 * largest)
    with pytest.raises(TooLarge, match="more than the reference computes"):
        IntegerReference(path)._batch(images, lambda _, values: values)
    halves = next(IntegerReference(path).batches(images))
    np.testing.assert_array_equal(halves[0], logits)
    for name, values in codes.items():
        np.testing.assert_array_equal(halves[1][name], values, err_msg=name)


@pytest.mark.parametrize(
    ("bound", "match"),
    [
        ("MOST_VALUES", "an array of 1×.* is more than the reference computes"),
        ("MOST_PRODUCTS", "products are more than the reference computes"),
        ("MOST_HELD_BYTES", "tensors take more than the 100 bytes"),
    ],
)
def test_what_is_too_large_for_one_image_is_refused_with_file_and_layer(
    bound: str,
    match: str,
    model: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = save(model, tmp_path / "large.onnx")
    monkeypatch.setattr(limits, bound, 100)
    with pytest.raises(TooLarge, match=rf"large\.onnx: node '.*{match}"):
        IntegerReference(path).run(random_images(np.random.default_rng(0), 4, 8))
