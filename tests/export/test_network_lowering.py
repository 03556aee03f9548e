"""Every kind of network lowers to integers that equal the reference and the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from export.certificate import certify
from export.fake_quantized import FakeQuantized
from export.lowering import Lowered, lower, lower_float
from export.parity import check_parity
from export.qonnx_execution import execute_qonnx
from export.qonnx_from_network import write_qonnx
from training.networks import Network, NetworkSpec, build_network

CASES = [
    *((name, bits) for name in ("vgg11", "mobilenetv2") for bits in (8, 5, 4, 3, 2)),
    ("resnet50", 3),
    ("resnet18", 4),
    ("vgg16-imagenet", 4),
]


def network(name: str, *bit_widths: int, **settings: Any) -> Network:
    """With positive, negative and zero BatchNorm gains; ``settings`` of the spec."""
    generator = torch.Generator().manual_seed(0)
    spec = NetworkSpec(name=name, classes=10, input_size=32, bit_widths=bit_widths, **settings)
    built = build_network(spec, generator)
    with torch.no_grad():
        for module in built.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.normal_(1.0, 0.3, generator=generator)
                module.weight[0] = -0.7
                module.weight[1] = 0.0
                module.bias.normal_(0.0, 0.3, generator=generator)
        for bits in bit_widths:
            built.set_bit_width(bits)
            built(torch.from_numpy(fields(8, seed=1)).float())
    return built.for_evaluation()


def fields(count: int, seed: int = 0) -> np.ndarray:
    """Smooth colour fields: they use more codes than white noise does."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4))
    return np.kron(coarse, np.ones((1, 1, 8, 8))).astype(np.uint8)


def lowered(built: Network, bits: int, folder: Path) -> Lowered:
    return lower(write_qonnx(built, bits, folder / "q.onnx"), folder / "i.onnx")


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_network_is_integer_and_equals_reference_and_training(
    name: str, bits: int, tmp_path: Path
) -> None:
    built, images = network(name, bits), fields(4)
    made = lowered(built, bits, tmp_path)
    certificate = certify(made.path, images[:2])
    assert certificate.ok, certificate.failures
    parity = check_parity(made.path, images, fake_quantized=FakeQuantized(built, bits))
    assert sum(layer.values for layer in parity.layers) > 100_000
    assert parity.first_departure is None
    assert parity.logits_different == 0
    assert parity.agreement == 1.0


@pytest.mark.parametrize(
    ("name", "operator", "weights"),
    [("mobilenetv2", "Pad", (4, 3, 3)), ("resnet18", "SpaceToDepth", (12, 4, 4))],
)
def test_the_image_gets_a_fourth_channel_or_comes_in_blocks(
    name: str, operator: str, weights: tuple[int, ...], tmp_path: Path
) -> None:
    graph = onnx.load(lowered(network(name, 8), 8, tmp_path).path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    stem = next(node for node in graph.node if node.op_type == "QLinearConv")
    assert tuple(stored[stem.input[3]].dims)[1:] == weights
    laid_out = [node.op_type for node in graph.node if node.op_type in ("Pad", "SpaceToDepth")]
    assert laid_out == [operator]


@pytest.mark.parametrize(("name", "bits"), [("resnet50", 8), ("resnet18", 2), ("mobilenetv2", 4)])
def test_a_file_for_amx_computes_the_same_codes(name: str, bits: int, tmp_path: Path) -> None:
    built, images = network(name, bits), fields(4)
    source = write_qonnx(built, bits, tmp_path / "q.onnx")
    common, tuned = (lower(source, tmp_path / f"{t}.onnx", tune=t) for t in ("any", "amx"))
    assert (common.tune, tuned.tune) == ("any", "amx")
    parity = check_parity(tuned.path, images)
    assert (parity.first_departure, parity.logits_different) == (None, 0)
    assert certify(tuned.path, images[:2]).ok
    with OnnxRuntimeEngine(common.path) as engine, OnnxRuntimeEngine(tuned.path) as other:
        assert engine.run(images).tobytes() == other.run(images).tobytes()
    marked = [line for line in tuned.log if "for the matrix kernel" in line]
    assert marked
    assert not any("for the matrix kernel" in line for line in common.log)
    zero_points, sizes = {}, {}
    for made in (common, tuned):
        graph = onnx.load(made.path).graph
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        zero_points[made.tune] = [
            int(stored[node.input[5]]) for node in graph.node if node.op_type == "QLinearConv"
        ]
        sizes[made.tune] = {tensor.dtype.name for tensor in stored.values() if tensor.ndim == 4}
    assert set(zero_points["any"]) == {0}
    assert zero_points["amx"].count(-1) == len(marked)
    # One code lower, the narrow range still fits the type.
    assert sizes["any"] == sizes["amx"]


def test_max_pool_reads_and_gives_codes(tmp_path: Path) -> None:
    made = lowered(network("vgg11", 2), 2, tmp_path)
    nodes = onnx.load(made.path).graph.node
    pools = [node for node in nodes if node.op_type == "MaxPool"]
    assert len(pools) == 5
    makers = {node.output[0]: node.op_type for node in nodes}
    # Two-bit codes come from the Clip, the last layer's eight-bit ones from the convolution.
    assert [makers[pool.input[0]] for pool in pools] == ["Clip"] * 4 + ["QLinearConv"]
    assert "maxpool0: MaxPool of codes 2×2 [max-pool]" in made.log


def test_relu6_is_a_clip_of_codes(tmp_path: Path) -> None:
    built = network("mobilenetv2", 8)
    scale = built.stem.output.scale.get_parameter("scale_8")
    with torch.no_grad():
        scale.fill_(0.1)
    made = lowered(built, 8, tmp_path)
    assert any(line.startswith("stem: QLinearConv, 8-bit weights, codes 0…60") for line in made.log)
    images = fields(4)
    assert check_parity(made.path, images).first_departure is None


@pytest.mark.parametrize("name", ["vgg11", "mobilenetv2"])
def test_qonnx_package_and_float_baseline_compute_what_the_network_does(
    name: str, tmp_path: Path
) -> None:
    built, images = network(name, 32, 4), fields(3)
    theirs = execute_qonnx(write_qonnx(built, 4, tmp_path / "q4.onnx"), images[:1])
    path = lower_float(write_qonnx(built, 32, tmp_path / "q32.onnx"), tmp_path / "f.onnx").path
    with OnnxRuntimeEngine(path) as engine:
        baseline = engine.run(images)
    pixels = torch.from_numpy(images).float()
    with torch.no_grad():
        ours = {}
        for bits in (4, 32):
            with built.at(bits):
                ours[bits] = built(pixels).numpy()
    # One code at a rounding tie, where sums run in another order, moves logits by less than 5%.
    size = np.abs(ours[4]).max()
    np.testing.assert_allclose(theirs, ours[4][:1], rtol=0.0, atol=0.05 * size)
    np.testing.assert_allclose(baseline, ours[32], rtol=1e-3, atol=1e-3 * np.abs(ours[32]).max())
