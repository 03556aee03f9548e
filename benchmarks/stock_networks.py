"""The same networks of stock Brevitas layers, as its examples write them, and its own export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import brevitas.nn as qnn
import torch
from brevitas.export import export_onnx_qcdq
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Uint8ActPerTensorFloat
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks import mobilenet, resnet


class StockBlock(nn.Module):
    """A ResNet's basic block."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, bits: int) -> None:
        super().__init__()
        self.first = _convolution(channels_in, channels_out, 3, stride, bits)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.first_relu = _relu(bits)
        self.second = _convolution(channels_out, channels_out, 3, 1, bits)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                _convolution(channels_in, channels_out, 1, stride, bits),
                nn.BatchNorm2d(channels_out),
            )
        self.summand = _signed()
        self.relu = _relu(bits)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        branch = self.first_relu(self.first_norm(self.first(x)))
        branch = self.summand(self.second_norm(self.second(branch)))
        return cast(Tensor, self.relu(branch + self.summand(self.shortcut(x))))


class StockInvertedResidual(nn.Module):
    """MobileNetV2's block."""

    def __init__(
        self, channels_in: int, channels_out: int, expansion: int, stride: int, bits: int
    ) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.layers = nn.Sequential(
            *(_unit(channels_in, wide, 1, 1, bits) if expansion > 1 else ()),
            *_unit(wide, wide, 3, stride, bits, groups=wide),
            _convolution(wide, channels_out, 1, 1, bits),
            nn.BatchNorm2d(channels_out),
        )
        self.summand = _signed()
        self.adds = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        branch = self.summand(self.layers(x))
        return branch + self.summand(x) if self.adds else branch


class StockNetwork(nn.Module):
    """Image quantizer, layers, mean over positions, 8-bit linear layer."""

    def __init__(self, layers: list[nn.Module], channels: int) -> None:
        super().__init__()
        self.input = _signed()
        self.layers = nn.Sequential(*layers)
        self.linear = qnn.QuantLinear(
            channels, 10, bias=True, weight_quant=Int8WeightPerChannelFloat, weight_bit_width=8
        )

    def forward(self, images: Tensor) -> Tensor:
        """float32 N×3×H×W → logits N×10."""
        x = self.layers(self.input(images))
        return cast(Tensor, self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1)))


def _cifar_resnet(depth: int, bits: int) -> StockNetwork:
    widths = resnet.CIFAR_WIDTHS
    layers: list[nn.Module] = _unit(3, widths[0], 3, 1, bits, weight_bits=8)
    channels = widths[0]
    for stage, width in enumerate(widths):
        for index in range((depth - 2) // 6):
            stride = 2 if stage > 0 and index == 0 else 1
            layers.append(StockBlock(channels, width, stride, bits))
            channels = width
    return StockNetwork(layers, channels)


def _imagenet_resnet18(bits: int) -> StockNetwork:
    channels = resnet.IMAGENET_STEM
    layers = _unit(3, channels, 7, 2, bits, weight_bits=8)
    layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    for stage, width in enumerate(resnet.IMAGENET_WIDTHS):
        for index in range(resnet.DEPTHS[18].blocks[stage]):
            stride = 2 if stage > 0 and index == 0 else 1
            layers.append(StockBlock(channels, width, stride, bits))
            channels = width
    return StockNetwork(layers, channels)


def _mobilenet_v2(bits: int) -> StockNetwork:
    layers = _unit(3, mobilenet.STEM_CHANNELS, 3, 2, bits, weight_bits=8)
    layers.append(
        StockInvertedResidual(mobilenet.STEM_CHANNELS, mobilenet.FIRST_CHANNELS, 1, 1, bits)
    )
    channels = mobilenet.FIRST_CHANNELS
    for expansion, width, count, first_stride in mobilenet.STAGES:
        for index in range(count):
            stride = first_stride if index == 0 else 1
            layers.append(StockInvertedResidual(channels, width, expansion, stride, bits))
            channels = width
    layers += _unit(channels, mobilenet.LAST_CHANNELS, 1, 1, bits)
    return StockNetwork(layers, mobilenet.LAST_CHANNELS)


NETWORKS: dict[str, Callable[[int], StockNetwork]] = {
    "resnet8": lambda bits: _cifar_resnet(8, bits),
    "resnet20": lambda bits: _cifar_resnet(20, bits),
    "resnet56": lambda bits: _cifar_resnet(56, bits),
    "resnet18": _imagenet_resnet18,
    "mobilenetv2": _mobilenet_v2,
}
"""By the registry's names of our own."""


def write_stock_qcdq(
    path: Path, name: str, bits: int, batch: int, *, size: int = 32, seed: int = 0
) -> Path:
    """Export a stock Brevitas network with Brevitas' own ``export_onnx_qcdq``."""
    torch.manual_seed(seed)
    network = NETWORKS[name](bits)
    images = 32 if size <= 64 else 4
    with torch.no_grad():
        for _ in range(8 if size <= 64 else 2):
            network(torch.rand(images, 3, size, size))
    network.eval()
    export_onnx_qcdq(network, torch.rand(batch, 3, size, size), str(path), opset_version=17)
    return path


def _unit(
    channels_in: int,
    channels_out: int,
    kernel: int,
    stride: int,
    bits: int,
    *,
    groups: int = 1,
    weight_bits: int | None = None,
) -> list[nn.Module]:
    return [
        _convolution(channels_in, channels_out, kernel, stride, weight_bits or bits, groups),
        nn.BatchNorm2d(channels_out),
        _relu(bits),
    ]


def _convolution(
    channels_in: int, channels_out: int, kernel: int, stride: int, bits: int, groups: int = 1
) -> qnn.QuantConv2d:
    return qnn.QuantConv2d(
        channels_in,
        channels_out,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=groups,
        bias=False,
        weight_quant=Int8WeightPerChannelFloat,
        weight_bit_width=bits,
    )


def _relu(bits: int) -> qnn.QuantReLU:
    return qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=bits)


def _signed() -> qnn.QuantIdentity:
    return qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8)
