"""Any planned network lowers to integers: engine, reference and training agree in every code."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from export.certificate import certify
from export.fake_quantized import FakeQuantized
from export.lowering import lower, lower_float
from export.parity import check_parity
from export.qonnx_execution import clean_qonnx, execute_qonnx
from export.qonnx_from_network import write_qonnx
from export.reference import IntegerReference
from export.reference.qdq import QdqReference
from tests.training.quantize.networks import NETWORKS, fields, network, planned, settle
from training.prediction import logits
from training.quantize import Network
from training.quantize.layers import Table
from training.quantize.pointwise import FUNCTIONS

BITS = (8, 4, 2)


class Grey(nn.Module):
    """Grey images, 28×36, three classes, hidden linear layers."""

    shape, classes = (1, 28, 36), 3

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 5, 2), nn.BatchNorm2d(8)
        self.hidden, self.linear = nn.Linear(8 * 6 * 8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        return self.linear(torch.relu(self.hidden(x.flatten(1))))


class Wide(nn.Module):
    """RGB images, 96×128, a hundred classes, a shortcut of every second row and column."""

    shape, classes = (3, 96, 128), 100

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 7, 4, 3, bias=False), nn.BatchNorm2d(8)
        self.conv, self.conv_norm = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 100)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = torch.relu(self.conv_norm(self.conv(x)) + shortcut)
        return self.linear(x.mean((2, 3)))


class Sums(nn.Module):
    """A sum of three in a module, so that one step is ``unit`` and the next ``unit.add``, which is
    what the first one's Add would be called too."""

    shape, classes = (3, 12, 12), 4

    class Unit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(6, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + x + self.two(x)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.unit, self.norm = nn.Conv2d(3, 6, 3), Sums.Unit(), nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.unit(torch.relu(self.stem(x)))))
        return self.linear(x.mean((2, 3)))


class Twice(nn.Module):
    """Functions, a concatenation and a sum that read one tensor twice; layers that are called as
    constants of the files would be."""

    shape, classes = (3, 12, 12), 4

    def __init__(self) -> None:
        super().__init__()
        self.s, self.b, self.zero = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 1)
        self.linear = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.s(x)
        x = self.b(x * x)
        x = self.zero(torch.relu(x + x) ** 2)
        x = F.adaptive_avg_pool2d(torch.cat([x, x], 1), 1)
        return self.linear(x.flatten(1) + x.flatten(1))


OWN: dict[str, type[Any]] = {"grey": Grey, "wide": Wide, "sums": Sums, "twice": Twice}
CASES = (*NETWORKS, *OWN)


def images_of(name: str, count: int, seed: int) -> NDArray[np.uint8]:
    shape = OWN[name].shape if name in OWN else (3, 11, 11)
    return fields(count, shape[0], shape[1:], seed)


@cache
def calibrated(name: str) -> Network:
    images = images_of(name, 64, seed=1)
    torch.manual_seed(0)
    module = OWN[name]() if name in OWN else network(name)
    return planned(settle(module, images), images, 32, *BITS)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", CASES)
def test_the_integer_file_is_the_network(name: str, bits: int, tmp_path: Path) -> None:
    built, images = calibrated(name), images_of(name, 32, seed=2)
    made = lower(write_qonnx(built, bits, tmp_path / "q.onnx"), tmp_path / "i.onnx")
    certificate = certify(made.path, images[:2]).required()
    counts = certificate.counts()
    assert sum(count["float"] for count in counts.values()) == 0
    gates = [step for step in built.plan.steps if step.kind == "gate"]
    assert counts["gate"]["integer"] == len(gates)
    # What reads images and gives logits is integer, and so is all between.
    assert all(layer.integer for layer in certificate.layers)
    assert certificate.float_requantizations == ()
    parity = check_parity(made.path, images, fake_quantized=FakeQuantized(built, bits))
    # At 2 bits, without training, a network may have a favourite class; its codes are compared.
    assert parity.ok or (bits == 2 and all("classes predicted" in f for f in parity.failures))
    assert parity.first_departure is None
    assert parity.logits_different == 0
    compared = [layer for layer in parity.layers if layer.flips is not None]
    assert compared
    assert sum(layer.flips or 0 for layer in compared) == 0
    assert parity.agreement == 1.0
    reference = IntegerReference(made.path).run(images)
    np.testing.assert_allclose(reference, logits(built, images, bits), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", CASES)
def test_the_qdq_file_of_each_target_is_the_network(name: str, bits: int, tmp_path: Path) -> None:
    built, images = calibrated(name), images_of(name, 16, seed=3)
    source = write_qonnx(built, bits, tmp_path / "q.onnx")
    ours = logits(built, images, bits)
    size = np.abs(ours).max()
    qcdq = lower(source, tmp_path / "qcdq.onnx", target="qcdq").path
    # The same codes at every layer: what is left is the order of float32 sums in the last.
    found = QdqReference(qcdq).run(images)
    np.testing.assert_allclose(found, ours, rtol=0.0, atol=1e-5 * size)
    with OnnxRuntimeEngine(qcdq) as engine:
        # A float engine may round a sum to the other side: a code of a layer, then.
        np.testing.assert_allclose(engine.run(images), ours, rtol=0.0, atol=0.1 * size)
    # Unsigned 8-bit codes become 0…127 there: one bit less.
    tensorrt = lower(source, tmp_path / "tensorrt.onnx", target="tensorrt").path
    coarse = QdqReference(tensorrt).run(images)
    assert float(np.abs(coarse - ours).mean()) < 0.1 * size


@pytest.mark.parametrize("name", CASES)
def test_the_float_file_is_the_float_network(name: str, tmp_path: Path) -> None:
    built, images = calibrated(name), images_of(name, 8, seed=4)
    path = lower_float(write_qonnx(built, 32, tmp_path / "q.onnx"), tmp_path / "f.onnx").path
    expected = logits(built, images, 32)
    with OnnxRuntimeEngine(path) as engine:
        np.testing.assert_allclose(
            engine.run(images), expected, rtol=0.0, atol=1e-4 * np.abs(expected).max()
        )


@pytest.mark.parametrize("name", CASES)
def test_the_qonnx_file_is_the_same_after_qonnx_cleanup(name: str, tmp_path: Path) -> None:
    built, images = calibrated(name), images_of(name, 2, seed=5)
    path = write_qonnx(built, 4, tmp_path / "q.onnx")
    found = execute_qonnx(path, images)
    np.testing.assert_allclose(found, logits(built, images, 4), rtol=1e-5, atol=1e-5)
    cleaned = execute_qonnx(clean_qonnx(path, tmp_path / "clean.onnx"), images)
    np.testing.assert_array_equal(cleaned, found)


class Functions(nn.Module):
    """One function of the codes of a convolution each."""

    def __init__(self) -> None:
        super().__init__()
        names = [name for name in FUNCTIONS if name not in ("add", "sub", "neg", "mul")]
        self.names = names
        self.convs = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in names)
        self.linear = nn.Linear(4 * len(names), 5)

    def forward(self, x: Tensor) -> Tensor:
        functions: dict[str, Callable[[Tensor], Tensor]] = {
            "div": lambda y: (1.0 - y * 0.7) / 3.0,
            "clamp": lambda y: torch.clamp(y, -0.4, 0.6),
            "leaky": lambda y: F.leaky_relu(y, 0.1),
            "elu": lambda y: F.elu(y, 0.5),
            "sqrt": lambda y: torch.sqrt(torch.abs(y) + 0.1),
            "sigmoid": torch.sigmoid,
            "tanh": torch.tanh,
            "softplus": F.softplus,
            "exp": torch.exp,
            "erf": F.gelu,
            "abs": torch.abs,
            "square": torch.square,
        }
        parts = [
            functions[name](conv(x)).mean((2, 3))
            for name, conv in zip(self.names, self.convs, strict=True)
        ]
        return self.linear(torch.cat(parts, 1))


@pytest.mark.parametrize("bits", [8, 3])
def test_the_tables_of_the_file_are_those_of_the_network(bits: int, tmp_path: Path) -> None:
    images = fields(64, seed=1)
    torch.manual_seed(0)
    built = planned(settle(Functions().eval(), images), images, 32, bits)
    made = lower(write_qonnx(built, bits, tmp_path / "q.onnx"), tmp_path / "i.onnx")
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(made.path).graph.initializer}
    tables = [step for step in built.plan.steps if step.kind == "table"]
    assert len(tables) == 12
    with built.at(bits):
        for step in tables:
            layer = built.layer(step.name)
            assert isinstance(layer, Table) and step.codes is not None
            before = built.plan.step(step.inputs[0]).codes
            assert before is not None and before.signed and before.wide
            ours = layer.entries() + (128 if step.codes.signed else 0)
            assert np.array_equal(stored[f"{step.name}.table"], ours), step.name
    assert certify(made.path, images[:2]).ok
    parity = check_parity(made.path, images[:16], fake_quantized=FakeQuantized(built, bits))
    assert (parity.first_departure, parity.logits_different) == (None, 0)
    assert sum(layer.flips or 0 for layer in parity.layers) == 0


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for run in range(2):
        calibrated.cache_clear()
        source = write_qonnx(calibrated("gated"), 4, tmp_path / f"{run}.onnx")
        made.append(lower(source, tmp_path / f"{run}.i.onnx").path.read_bytes())
    assert made[0] == made[1]
    assert str(tmp_path).encode() not in made[0]
