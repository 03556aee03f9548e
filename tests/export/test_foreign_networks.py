"""Stock Brevitas networks, exported by Brevitas itself: lowered, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from brevitas import nn as qnn
from brevitas.core.scaling import ScalingImplType
from brevitas.export import export_qonnx
from brevitas.quant import Int8ActPerTensorFloat, Int32Bias
from torch import Tensor, nn

from export.certificate import certify
from export.fake_quantized import Batch
from export.lowering import lower
from export.parity import check_parity
from export.passes.rule import LoweringError

SIZE = 16


class Pixels(Int8ActPerTensorFloat):
    """The image's bytes: scale 2^-6, that is 128 codes for a range of 2."""

    scaling_impl_type = ScalingImplType.CONST
    scaling_init = 2.0
    restrict_scaling_type = "POWER_OF_TWO"


class Stock(nn.Module):
    """A network of stock Brevitas layers with stock quantizers, a sum and a max-pool in it."""

    def __init__(self, *, float_layer: bool = False, own_scales: bool = False) -> None:
        super().__init__()
        self.pixels = qnn.QuantIdentity(Pixels, return_quant_tensor=True)
        self.conv1 = qnn.QuantConv2d(3, 8, 3, padding=1, bias=False, weight_bit_width=4)
        self.norm = nn.BatchNorm2d(8)
        self.relu1 = qnn.QuantReLU(bit_width=4, return_quant_tensor=True)
        self.pool = nn.MaxPool2d(2)
        layer = nn.Conv2d if float_layer else qnn.QuantConv2d
        settings = {} if float_layer else {"weight_bit_width": 3, "bias_quant": Int32Bias}
        self.conv2 = layer(8, 8, 3, padding=1, **settings)
        self.shared: nn.Module = qnn.QuantIdentity(bit_width=8)
        self.other = qnn.QuantIdentity(bit_width=8)
        self.conv3 = qnn.QuantConv2d(8, 8, 1, weight_bit_width=4, bias=False)
        self.own_scales = own_scales
        self.average: nn.Module = nn.AdaptiveAvgPool2d(1)
        self.pooled: nn.Module = qnn.QuantIdentity(bit_width=8, return_quant_tensor=True)
        self.linear = qnn.QuantLinear(8, 5, bias=True, weight_bit_width=8)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.pixels((pixels - 128.0) * (1.0 / 64.0))
        x = self.pool(self.relu1(self.norm(self.conv1(x))))
        x = self.shared(self.conv2(x))
        branch = (self.other if self.own_scales else self.shared)(self.conv3(x))
        x = self.shared(x + branch)
        return self.linear(self.pooled(self.average(x)).flatten(1))


def exported(network: nn.Module, path: Path) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    for _ in range(5):
        network(torch.randint(0, 256, (8, 3, SIZE, SIZE)).float())
    network.eval()
    export_qonnx(network, torch.randint(0, 256, (1, 3, SIZE, SIZE)).float(), str(path))
    return network, path


def test_every_float_number_of_a_stock_network_is_named_with_the_cure(tmp_path: Path) -> None:
    """The same network whose sum nobody quantizes; with one quantizer for both it is taken."""
    network = Stock()
    network.shared = nn.Identity()
    network.average = nn.Sequential(qnn.QuantReLU(bit_width=5), nn.AdaptiveAvgPool2d(2))
    network.pooled = nn.Sequential(  # 16 codes of 5 bits are more than a byte
        qnn.QuantConv2d(8, 8, 1, weight_bit_width=4), qnn.QuantReLU(bit_width=4), nn.MaxPool2d(2)
    )
    _, path = exported(network, tmp_path / "q.onnx")
    with pytest.raises(LoweringError) as caught:
        lower(path, tmp_path / "i.onnx")
    first, second, cure = str(caught.value).splitlines()
    assert "(Conv), has no integer codes" in first
    assert "(AveragePool), has no integer codes" in second
    assert "QuantIdentity, the same one for all tensors that meet in a sum" in cure


def test_a_stock_brevitas_network_is_lowered(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network, path = exported(Stock(), tmp_path / "q.onnx")
    made = lower(path, tmp_path / "i.onnx")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (16, 3, 4, 4))
    images = np.kron(coarse, np.ones((1, 1, 4, 4))).astype(np.uint8)
    certificate = certify(made.path, images[:2])
    assert certificate.ok, certificate.failures

    @torch.no_grad()
    def theirs(batch: np.ndarray) -> Batch:
        return network(torch.from_numpy(batch).float()).numpy(), {}

    parity = check_parity(made.path, images, fake_quantized=theirs)
    assert parity.first_departure is None
    assert parity.logits_different == 0
    # Stock biases are float (an int32 grid moves them a little) and stock scales may tie.
    assert parity.agreement is not None
    assert parity.agreement >= 0.9


def test_a_stock_network_that_is_not_integer_is_refused_with_layer_and_reason(
    tmp_path: Path,
) -> None:
    torch.manual_seed(1)
    _, path = exported(Stock(float_layer=True), tmp_path / "q.onnx")
    with pytest.raises(LoweringError, match=r"convolution: the weights .* are not a quantized"):
        lower(path, tmp_path / "i.onnx")
    assert not (tmp_path / "i.onnx").exists()


class Halved(Stock):
    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels * 0.5 + 64.0)


@pytest.mark.parametrize(
    ("make", "written"),
    [(lambda: Stock(own_scales=True), "table of pairs"), (Halved, "image codes]")],
    ids=["a sum of two scales", "an image that is not bytes"],
)
def test_a_stock_network_whose_codes_need_tables_is_its_source(
    make: Callable[[], nn.Module], written: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    _, path = exported(make(), tmp_path / "q.onnx")
    made = lower(path, tmp_path / "i.onnx")
    assert any(written in line for line in made.log), made.log
    assert made.source is not None
    assert not made.source.failures
    assert certify(made.path).ok
