"""The networks that the speed benchmark compares: ours, and one of stock Brevitas layers."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import brevitas.nn as qnn
import torch
from brevitas.export import export_onnx_qcdq
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Uint8ActPerTensorFloat
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks import Network, NetworkSpec, build_network
from training.networks.resnet import WIDTHS


@torch.no_grad()
def warmed_network(name: str, bit_widths: tuple[int, ...], seed: int = 0) -> Network:
    """A network with drawn weights whose statistics and scales come from a few random images.

    Its predictions mean nothing; its operators and shapes are those of a trained one.
    """
    generator = torch.Generator().manual_seed(seed)
    spec = NetworkSpec(name=name, classes=10, input_size=32, bit_widths=bit_widths)
    network = build_network(spec, generator)
    for bits in bit_widths:
        network.set_bit_width(bits)
        for _ in range(8):
            network(torch.randint(0, 256, (32, 3, 32, 32), generator=generator).float())
    return network.eval()


class StockBlock(nn.Module):
    """A basic block as Brevitas' own examples write it."""

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
        self.summand = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8)
        self.relu = _relu(bits)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        branch = self.first_relu(self.first_norm(self.first(x)))
        branch = self.summand(self.second_norm(self.second(branch)))
        return cast(Tensor, self.relu(branch + self.summand(self.shortcut(x))))


class StockResNet(nn.Module):
    """CIFAR ResNet of stock Brevitas layers, the shape of ours."""

    def __init__(self, depth: int, bits: int) -> None:
        super().__init__()
        self.input = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8)
        self.stem = _convolution(3, WIDTHS[0], 3, 1, 8)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        self.relu = _relu(bits)
        blocks: list[nn.Module] = []
        channels = WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            for index in range((depth - 2) // 6):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(StockBlock(channels, width, stride, bits))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.linear = qnn.QuantLinear(
            channels, 10, bias=True, weight_quant=Int8WeightPerChannelFloat, weight_bit_width=8
        )

    def forward(self, images: Tensor) -> Tensor:
        """float32 N×3×32×32 → logits N×10."""
        x = self.blocks(self.relu(self.norm(self.stem(self.input(images)))))
        return cast(Tensor, self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1)))


def _convolution(
    channels_in: int, channels_out: int, kernel: int, stride: int, bits: int
) -> qnn.QuantConv2d:
    return qnn.QuantConv2d(
        channels_in,
        channels_out,
        kernel,
        stride=stride,
        padding=kernel // 2,
        bias=False,
        weight_quant=Int8WeightPerChannelFloat,
        weight_bit_width=bits,
    )


def _relu(bits: int) -> qnn.QuantReLU:
    return qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=bits)


def write_stock_qcdq(path: Path, depth: int, bits: int, batch: int, seed: int = 0) -> Path:
    """Export a stock Brevitas ResNet with Brevitas' own ``export_onnx_qcdq``."""
    torch.manual_seed(seed)
    network = StockResNet(depth, bits)
    with torch.no_grad():
        for _ in range(8):
            network(torch.rand(32, 3, 32, 32))
    network.eval()
    export_onnx_qcdq(network, torch.rand(batch, 3, 32, 32), str(path), opset_version=17)
    return path
