"""QONNX from our networks, and its lowering: equal, integer, small, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import InputError
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from export.certificate import certify
from export.fake_quantized import FakeQuantized
from export.graph_builder import QONNX
from export.lowering import lower, lower_float
from export.parity import check_parity
from export.passes.qonnx_graph import QonnxGraph
from export.passes.rule import LoweringError
from export.qonnx_execution import execute_qonnx
from export.qonnx_from_network import write_qonnx
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network

BIT_WIDTHS = (32, 8, 5, 4, 3, 2)


@pytest.fixture(scope="module")
def network() -> Network:
    """ResNet-8 whose BatchNorms have positive, negative and zero gains."""
    generator = torch.Generator().manual_seed(0)
    spec = NetworkSpec(name="resnet8", classes=10, input_size=32, bit_widths=BIT_WIDTHS)
    built = build_network(spec, generator)
    with torch.no_grad():
        for module in built.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.normal_(1.0, 0.5, generator=generator)
                module.weight[0] = -0.7
                module.weight[1] = 0.0
                module.bias.normal_(0.0, 0.3, generator=generator)
        for bits in BIT_WIDTHS:
            built.set_bit_width(bits)
            for _ in range(3):
                built(torch.randint(0, 256, (32, 3, 32, 32), generator=generator).float())
    return built.for_evaluation()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    # Smooth colour fields: they reach more classes than white noise does.
    coarse = rng.integers(0, 256, (48, 3, 4, 4))
    return np.kron(coarse, np.ones((1, 1, 8, 8))).astype(np.uint8)


def exported(network: Network, bits: int, folder: Path) -> tuple[Path, Path]:
    qonnx = write_qonnx(network, bits, folder / f"q{bits}.onnx")
    out = folder / f"i{bits}.onnx"
    (lower_float if bits == 32 else lower)(qonnx, out)
    return qonnx, out


@pytest.mark.parametrize("bits", BIT_WIDTHS[1:])
def test_lowered_graph_is_integer_and_equals_reference_and_training(
    network: Network, images: np.ndarray, tmp_path: Path, bits: int
) -> None:
    _, path = exported(network, bits, tmp_path)
    certificate = certify(path, images[:4])
    assert certificate.ok, certificate.failures
    parity = check_parity(path, images, fake_quantized=FakeQuantized(network, bits))
    assert parity.logits_different == 0
    assert parity.first_departure is None
    assert parity.agreement is not None
    assert parity.agreement >= 0.97


@pytest.mark.parametrize("bits", [8, 4])
def test_no_two_layers_share_int8_weights_or_their_zero_point(
    network: Network, tmp_path: Path, bits: int
) -> None:
    # ONNX Runtime's session.x64quantprecision replaces both by name, once for each layer that names
    # them: a shared one does not load on x86-64 without VNNI.
    _, path = exported(network, bits, tmp_path)
    layers = [n for n in onnx.load(path).graph.node if n.op_type in ("QLinearConv", "QGemm")]
    assert len(layers) == 10
    for place in (3, 5):
        names = [node.input[place] for node in layers]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("bits", [32, 8, 2])
def test_qonnx_package_computes_what_the_network_computes(
    network: Network, images: np.ndarray, tmp_path: Path, bits: int
) -> None:
    qonnx, _ = exported(network, bits, tmp_path)
    theirs = execute_qonnx(qonnx, images[:4])
    with network.at(bits), torch.no_grad():
        ours = network(torch.from_numpy(images[:4]).float()).numpy()
    # Convolutions sum in another order, so a value at a rounding tie may land one code away;
    # such a code moves the logits by far less than 2% of the largest.
    np.testing.assert_allclose(theirs, ours, rtol=0.0, atol=0.02 * np.abs(ours).max())
    assert np.array_equal(theirs.argmax(axis=1), ours.argmax(axis=1))


def test_float_baseline_equals_the_network(
    network: Network, images: np.ndarray, tmp_path: Path
) -> None:
    _, path = exported(network, 32, tmp_path)
    with OnnxRuntimeEngine(path) as engine:
        theirs = engine.run(images)
    with network.at(32), torch.no_grad():
        ours = network(torch.from_numpy(images).float()).numpy()
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3 * np.abs(ours).max())
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert "BatchNormalization" not in operators


@pytest.mark.parametrize(
    ("bits", "stored"),
    [(8, TensorProto.INT8), (5, TensorProto.INT8), (4, TensorProto.INT4), (3, TensorProto.INT4),
     (2, TensorProto.INT2)],
)  # fmt: skip
def test_hidden_weights_are_stored_in_the_type_of_their_bit_width(
    network: Network, tmp_path: Path, bits: int, stored: int
) -> None:
    _, path = exported(network, bits, tmp_path)
    model = onnx.load(path)
    types = {t.name: t.data_type for t in model.graph.initializer}
    assert types["block0.first.w"] == stored
    assert types["stem.w"] == TensorProto.INT8
    assert not model.metadata_props
    assert all(not node.metadata_props and not node.doc_string for node in model.graph.node)
    wide = tmp_path / "int8.onnx"
    lower(tmp_path / f"q{bits}.onnx", wide, storage="int8")
    assert {t.data_type for t in onnx.load(wide).graph.initializer} <= {
        TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64,
        TensorProto.FLOAT,
    }  # fmt: skip
    rng_images = np.random.default_rng(1).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    with OnnxRuntimeEngine(path) as narrow, OnnxRuntimeEngine(wide) as plain:
        assert np.array_equal(narrow.run(rng_images), plain.run(rng_images))


def test_same_network_gives_the_same_bytes(network: Network, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for one, two in zip(
        exported(network, 4, tmp_path / "a"), exported(network, 4, tmp_path / "b"), strict=True
    ):
        assert one.read_bytes() == two.read_bytes()


def test_requantization_is_one_add_of_an_odd_ratio(network: Network, tmp_path: Path) -> None:
    _, path = exported(network, 4, tmp_path)
    model = onnx.load(path)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    # Zero point 240: uint8 itself saturates at code 15, so there is no Clip.
    entering = [n for n in model.graph.node if "enter" in n.name]
    assert len(entering) == 3
    for node in entering:
        assert node.op_type == "QLinearAdd"
        assert float(values[node.input[6]] / values[node.input[1]]) == pytest.approx(9.0)
        assert int(values[node.input[7]]) == 240
    _, eight = exported(network, 8, tmp_path)
    assert not [n for n in onnx.load(eight).graph.node if "enter" in n.name]


def edited(source: Path, out: Path, **scales: float) -> Path:
    """Copy a QONNX file with some of its scalar scales changed by a factor."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            changed = numpy_helper.to_array(tensor) * np.float32(scales[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), tensor.name))
    onnx.save(model, out)
    return out


def test_a_requantization_that_would_tie_is_a_table(network: Network, tmp_path: Path) -> None:
    qonnx, _ = exported(network, 4, tmp_path)
    wrong = edited(qonnx, tmp_path / "wrong.onnx", **{"block0.enter.scale": 8.0 / 9.0})
    made = lower(wrong, tmp_path / "out.onnx")
    assert any("block0.enter: table of 16 codes" in line for line in made.log)
    assert made.source is not None
    assert next(one for one in made.source.layers if one.layer == "block0.enter").different == 0


def small_qonnx(path: Path, quantize_weights: bool, quantize_output: bool) -> Path:
    """One convolution that this project did not write."""

    def constant(name: str, value: object) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(value, np.float32), name)

    constants = [
        constant("grey", 128.0), constant("step", 2.0**-6), constant("zero", 0.0),
        constant("eight", 8.0), constant("ws", 0.01), constant("ys", 0.1),
        constant("w", np.ones((4, 3, 3, 3)) * 0.1),
    ]  # fmt: skip

    def quant(x: str, scale: str, y: str, signed: int) -> onnx.NodeProto:
        return helper.make_node(
            "Quant", [x, scale, "zero", "eight"], [y], domain=QONNX,
            signed=signed, narrow=0, rounding_mode="ROUND", name=y,
        )  # fmt: skip

    nodes = [
        helper.make_node("Sub", ["images", "grey"], ["a"]),
        helper.make_node("Mul", ["a", "step"], ["b"]),
        quant("b", "step", "x", 1),
    ]
    if quantize_weights:
        nodes.append(quant("w", "ws", "wq", 1))
    weights = "wq" if quantize_weights else "w"
    nodes.append(
        helper.make_node("Conv", ["x", weights], ["conv"], kernel_shape=[3, 3], name="conv")
    )
    nodes.append(quant("conv", "ys", "y", 0) if quantize_output else
                 helper.make_node("Relu", ["conv"], ["y"]))  # fmt: skip
    nodes.append(helper.make_node("GlobalAveragePool", ["y"], ["logits"], name="pool"))
    graph = helper.make_graph(
        nodes, "foreign",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, 1, 1])],
        constants,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(QONNX, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_a_layer_that_cannot_be_lowered_is_named_with_every_reason(tmp_path: Path) -> None:
    float_weights = small_qonnx(tmp_path / "a.onnx", quantize_weights=False, quantize_output=True)
    with pytest.raises(LoweringError, match=r"'y' \(Quant\).*'w' are not a quantized constant"):
        lower(float_weights, tmp_path / "out.onnx")
    no_codes = small_qonnx(tmp_path / "b.onnx", quantize_weights=True, quantize_output=False)
    with pytest.raises(LoweringError, match=r"'pool' \(GlobalAveragePool\).*has no integer codes"):
        lower(no_codes, tmp_path / "out.onnx")


def test_wrong_arguments_name_the_right_ones(tmp_path: Path) -> None:
    qonnx = small_qonnx(tmp_path / "a.onnx", quantize_weights=True, quantize_output=True)
    with pytest.raises(InputError, match="available: onnxruntime"):
        lower(qonnx, tmp_path / "out.onnx", target="npu")
    with pytest.raises(InputError, match="available: low-bit, int8"):
        lower(qonnx, tmp_path / "out.onnx", storage="int1")
    with pytest.raises(InputError, match=r"unknown tune 'sse' for .* available: any, amx"):
        lower(qonnx, tmp_path / "out.onnx", tune="sse")
    with pytest.raises(InputError, match="not an ONNX file"):
        lower(Path(__file__), tmp_path / "out.onnx")
    with pytest.raises(InputError, match="quantizes"):
        lower_float(qonnx, tmp_path / "out.onnx")


def test_a_quantizer_of_another_kind_is_refused(network: Network, tmp_path: Path) -> None:
    qonnx, _ = exported(network, 4, tmp_path)
    model = onnx.load(qonnx)
    node = next(n for n in model.graph.node if n.name == "block0.first")
    next(a for a in node.attribute if a.name == "rounding_mode").s = b"FLOOR"
    onnx.save(model, qonnx)
    source = QonnxGraph(qonnx)
    with pytest.raises(InputError, match="FLOOR is not ROUND"):
        source.quantizer(node)
    with pytest.raises(InputError, match="FLOOR is not ROUND"):
        lower(qonnx, tmp_path / "out.onnx")


def test_a_network_with_nearly_dead_gains_is_refused_not_wrapped_around(
    network: Network, tmp_path: Path
) -> None:
    qonnx, _ = exported(network, 4, tmp_path)
    model = onnx.load(qonnx)
    for tensor in model.graph.initializer:
        if tensor.name == "block0.first.gain":
            gains = numpy_helper.to_array(tensor).copy()
            gains[3] = 1e-12
            tensor.CopyFrom(numpy_helper.from_array(gains, tensor.name))
    onnx.save(model, qonnx)
    with pytest.raises(LoweringError, match=r"channel 3 .* more than int32 holds"):
        lower(qonnx, tmp_path / "out.onnx")
