"""Exact networks trained on real digits: engine = fake quantization, byte for byte; and the check
that refuses what could not be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from deploy.core.errors import InputError
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from export.budget import EQUAL, Overrides, default_budget
from export.exactness import ExactnessError, odd_part, require_exact
from export.fake_quantized import FakeQuantized
from export.lowering import lower
from export.parity import check_parity
from export.parity_report import Parity
from export.qonnx_from_network import write_qonnx
from tests.training.planned import convolution, scale
from training.checkpoint import load_network
from training.config import config_from_dict
from training.data import ImageSet, load_images
from training.exact import EXACT_LIMIT
from training.loop import RunOptions, train
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network

DEFAULT_BUDGET = default_budget("onnxruntime", 8, exact=False).network
BIT_WIDTHS = (8, 5, 4, 3, 2)
SIZE = 16


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_images("digits", None, "holdout", size=SIZE)


@pytest.fixture(scope="module")
def trained(digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Network:
    """ResNet-8, exact, a few dozen steps on scanned digits, one block with bits of its own."""
    config = config_from_dict(
        {
            "name": "exact",
            "seed": 0,
            "data": {"kind": "digits", "size": SIZE, "augment": "none"},
            "network": {
                "name": "resnet8",
                "bit_widths": list(BIT_WIDTHS),
                "exact": True,
                "mixed": {"4": {"block1": 3, "block2.first": 8}},
            },
            "training": {"epochs": 0.7, "batch_size": 32, "learning_rate": 0.05},
        },
        "test",
    )
    images = load_images("digits", None, "train", size=SIZE)
    folder = tmp_path_factory.mktemp("exact")
    return load_network(train(config, images, digits, folder, RunOptions(progress=False), dict))


def parity_of(network: Network, bits: int, images: NDArray[np.uint8], folder: Path) -> Parity:
    made = lower(write_qonnx(network, bits, folder / "q.onnx"), folder / "i.onnx")
    require_exact(made.path)
    return check_parity(
        made.path,
        images,
        fake_quantized=FakeQuantized(network, bits),
        budget=default_budget("onnxruntime", bits, exact=network.spec.exact).network,
    )


@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_a_trained_exact_network_is_its_integer_file_byte_for_byte(
    trained: Network, digits: ImageSet, tmp_path: Path, bits: int
) -> None:
    images = digits.images[:64]
    parity = parity_of(trained, bits, images, tmp_path)
    assert parity.ok, parity.failures
    assert parity.budget == EQUAL
    compared = [layer for layer in parity.layers if layer.flips is not None]
    assert {"stem", "block1.first", "block1.shortcut", "block2", "pool"} <= {
        layer.tensor for layer in compared
    }
    assert all(layer.flips == 0 and layer.largest_flip == 0 for layer in compared)
    with OnnxRuntimeEngine(tmp_path / "i.onnx") as engine:
        theirs = engine.run(images)
    with trained.at(bits), torch.no_grad():
        ours = trained(torch.from_numpy(images).float()).numpy()
    assert ours.tobytes() == theirs.tobytes()
    assert len(np.unique(ours)) > 100


def test_a_default_network_is_its_file_in_evaluation_and_not_for_its_scales(
    digits: ImageSet, tmp_path: Path
) -> None:
    """It is evaluated on integers too (training.quantize.integers); that no device and no engine
    may round it otherwise is what powers of two are for."""
    network = warmed("resnet8", exact=False)
    parity = parity_of_default(network, digits.images[:64], tmp_path)
    assert sum(layer.flips or 0 for layer in parity.layers) == 0
    assert parity.fake_logits_different == 0
    assert parity.budget == DEFAULT_BUDGET
    with pytest.raises(ExactnessError, match=r"layer stem: the scale .* is not a power of two"):
        require_exact(tmp_path / "i.onnx")


def parity_of_default(network: Network, images: NDArray[np.uint8], folder: Path) -> Parity:
    made = lower(write_qonnx(network, 8, folder / "q.onnx"), folder / "i.onnx")
    fake = FakeQuantized(network, 8)
    return check_parity(made.path, images, fake_quantized=fake, budget=DEFAULT_BUDGET)


def warmed(name: str, *, exact: bool, bits: int = 8, size: int = SIZE) -> Network:
    """With positive, negative and zero gains."""
    generator = torch.Generator().manual_seed(0)
    spec = NetworkSpec(name=name, classes=10, input_size=size, bit_widths=(bits,), exact=exact)
    network = build_network(spec, generator)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.normal_(1.0, 0.3, generator=generator)
                module.weight[:2] = torch.tensor([-0.7, 0.0])
                module.bias.normal_(0.0, 0.3, generator=generator)
        for _ in range(3):
            network(torch.randint(0, 256, (8, 3, size, size), generator=generator).float())
    return network.for_evaluation()


# 48 px leave 6 × 6 positions to the average of resnet8: even, and no power of two.
@pytest.mark.parametrize(
    ("name", "bits", "size"),
    [("resnet20", 5, 32), ("vgg11", 4, 16), ("mobilenetv2", 3, 32), ("resnet8", 8, 48),
     ("resnet18", 8, 32)],
)  # fmt: skip
def test_every_kind_of_network_is_exact(name: str, bits: int, size: int, tmp_path: Path) -> None:
    network = warmed(name, exact=True, bits=bits, size=size)
    coarse = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4))
    images = np.kron(coarse, np.ones((1, 1, size // 4, size // 4))).astype(np.uint8)
    parity = parity_of(network, bits, images, tmp_path)
    # An untrained network may predict few classes, which is not what is asked here.
    assert not [f for f in parity.failures if "classes predicted" not in f]
    assert (parity.first_departure, parity.first_flip) == (None, None)
    assert parity.fake_logits_different == 0


def test_the_bound_is_of_the_weights_without_their_zero_point(tmp_path: Path) -> None:
    source = write_qonnx(warmed("resnet18", exact=True, size=32), 8, tmp_path / "q.onnx")
    common, tuned = (lower(source, tmp_path / f"{t}.onnx", tune=t) for t in ("any", "amx"))
    assert any("for the matrix kernel" in line for line in tuned.log)
    assert require_exact(tuned.path) == require_exact(common.path)


def edited(source: Path, out: Path, name: str, change: object) -> Path:
    model = onnx.load(source)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = change(numpy_helper.to_array(tensor).copy())  # type: ignore[operator]
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, out)
    return out


def test_a_layer_that_can_leave_the_exact_integers_is_named_with_the_number(
    trained: Network, tmp_path: Path
) -> None:
    made = lower(write_qonnx(trained, 8, tmp_path / "q.onnx"), tmp_path / "i.onnx").path
    found = require_exact(made)
    assert [layer.layer for layer in found.layers][:2] == ["stem", "block0.first"]
    assert 0 < found.largest.bound < EXACT_LIMIT
    assert f"{found.largest.bound:,}" in found.summary()

    def large(bias: NDArray[np.int32]) -> NDArray[np.int32]:
        bias[5] = EXACT_LIMIT
        return bias

    wrong = edited(made, tmp_path / "bias.onnx", "block1.second.b", large)
    with pytest.raises(ExactnessError, match=r"layer block1\.second: .* channel 5 can reach 1"):
        require_exact(wrong)

    def odd(scales: NDArray[np.float32]) -> NDArray[np.float32]:
        return scales * np.float32(1.5)

    wrong = edited(made, tmp_path / "scale.onnx", "block2.first.ws", odd)
    with pytest.raises(ExactnessError, match=r"layer block2\.first.*: the scale .* weights"):
        require_exact(wrong)


def test_the_odd_part_of_a_scale_counts(trained: Network, tmp_path: Path) -> None:
    made = lower(write_qonnx(trained, 2, tmp_path / "q.onnx"), tmp_path / "i.onnx").path
    odd = {layer.layer: layer.odd for layer in require_exact(made).layers}
    # At 2 bits a branch reads every 43rd code of the stream.
    assert odd["block0.first.wide"] == 43
    assert odd["stem"] == 1
    assert [odd_part(x) for x in (1.0, 0.5, 3.0, 1.25, 43 * 2.0**-30)] == [1, 1, 3, 5, 43]


def test_a_budget_is_enforced_and_names_the_first_layer_over_it(
    digits: ImageSet, tmp_path: Path
) -> None:
    network = warmed("resnet8", exact=False, bits=4)
    made = lower(write_qonnx(network, 4, tmp_path / "q.onnx"), tmp_path / "i.onnx").path
    with torch.no_grad(), network.at(4):
        # The file stays as it was: the network is another one now.
        scale(convolution(network, "block0.first")).get_parameter("scale_4").mul_(1.3)
    fake = FakeQuantized(network, 4)
    parity = check_parity(made, digits.images[:32], fake_quantized=fake, budget=DEFAULT_BUDGET)
    assert not parity.ok
    assert parity.first_departure is None
    assert any("layer 'block0.first' has" in failure for failure in parity.failures)
    table = parity.table().splitlines()
    assert sum("<- flips" in line for line in table) == 1
    with pytest.raises(InputError, match="needs the fake-quantized network"):
        check_parity(made, digits.images[:8], budget=DEFAULT_BUDGET)
    with pytest.raises(InputError, match="code flips as a share"):
        Overrides(code_flips=5.0)
