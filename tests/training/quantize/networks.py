"""Small float networks that hold one kind of structure each, for the tests of any network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.calibration import calibrate
from training.quantize.planning import Planned, plan_of
from training.quantize.rewriting import normalization_of
from training.quantize.trace import trace


class Preactivated(nn.Module):
    """Normalizations before the convolutions, on a stream of sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv1(F.relu(self.norm1(x)))
        x = x + self.conv2(F.relu(self.norm2(x)))
        return self.linear(F.relu(self.last(x)).mean(dim=(2, 3)))


class Dense(nn.Module):
    """Concatenations, slices, and an average pool between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.grow1 = nn.Conv2d(6, 4, 3, padding=1)
        self.grow2 = nn.Conv2d(10, 4, 3, padding=1)
        self.squeeze = nn.Conv2d(14, 8, 1)
        self.right = nn.Conv2d(4, 4, 3, padding=1)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([x, F.relu(self.grow1(x))], dim=1)
        x = torch.cat([x, F.relu(self.grow2(x))], 1)
        x = F.avg_pool2d(self.squeeze(x), 2)
        left, right = x.chunk(2, dim=1)
        x = torch.cat([left, self.right(right)], dim=1)
        return self.linear(x.mean((2, 3)))


class Gated(nn.Module):
    """Squeeze and excitation on a residual stream, a SiLU and a hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv, self.conv_norm = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.hard_up = nn.Conv2d(4, 8, 1)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x))
        x = x * torch.sigmoid(x)
        y = self.conv_norm(self.conv(x))
        pooled = F.relu(self.down(F.adaptive_avg_pool2d(y, 1)))
        y = y * torch.sigmoid(self.up(pooled))
        x = x + y
        x = x * F.hardsigmoid(self.hard_up(pooled))
        x = x * F.relu6(x + 3.0) / 6.0
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Shuffled(nn.Module):
    """Groups, a channel shuffle by views, depthwise and dilated convolutions, leaky ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.act = nn.LeakyReLU(0.1)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        x = self.act(self.grouped(x))
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        x = F.relu(self.depthwise(x))
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.linear(F.avg_pool2d(x, x.shape[-1]).view(n, -1))


class Classical(nn.Module):
    """Hidden linear layers after a flattened map, dropout, padding."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ZeroPad2d((1, 0, 0, 1)),
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, ceil_mode=True),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(6 * 6 * 6, 12),
            nn.ReLU6(),
            nn.Linear(12, 10, bias=False),
            nn.Tanh(),
            nn.Linear(10, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class Averaged(nn.Module):
    """No linear layer: the logits are averages of a last convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding="same")
        self.pool = nn.AvgPool2d(3, 2, 1)
        self.two = nn.Conv2d(8, 5, (1, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.one(x))
        return self.two(self.pool(x)).relu().mean([2, 3])


class Vectors(nn.Module):
    """A head of features: normalized, in a gate and in a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden = nn.Conv2d(3, 6, 3, 2), nn.Linear(6 * 5 * 5, 8)
        self.norm, self.gate, self.last = nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.spread, self.linear = nn.Parameter(torch.rand(8) + 0.5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.hidden(F.selu(self.conv(x)).flatten(1))) / self.spread)
        x = x + x * torch.sigmoid(self.gate(x))
        return self.linear(self.last(x))


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "preactivated": Preactivated,
    "dense": Dense,
    "gated": Gated,
    "shuffled": Shuffled,
    "classical": Classical,
    "averaged": Averaged,
    "vectors": Vectors,
}
SIZE = 11
"""Of the images; odd, so that strides and windows do not divide it."""


def network(name: str, seed: int = 0) -> nn.Module:
    """A network with drawn weights and statistics, in evaluation mode."""
    torch.manual_seed(seed)
    made = NETWORKS[name]()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0.0, 0.3)
            part.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0.0, 0.2)
    return made.eval()


def fields(
    count: int, channels: int = 3, size: tuple[int, int] = (SIZE, SIZE), seed: int = 0
) -> NDArray[np.uint8]:
    """Smooth fields of colour, uint8 N×C×H×W: they use more codes than noise does."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, channels, 4, 4))
    fine = coarse.repeat(-(-size[0] // 4), axis=2).repeat(-(-size[1] // 4), axis=3)
    return fine[:, :, : size[0], : size[1]].astype(np.uint8)


@torch.no_grad()
def settle(module: nn.Module, images: NDArray[np.uint8]) -> nn.Module:
    """The module as after training: BatchNorm with the statistics of these images, and logits that
    are centred and of unit deviation, as far as the last layer decides."""
    x = (torch.from_numpy(images).float() - 128.0) / 64.0
    for part in module.modules():
        if isinstance(part, nn.Conv2d):  # torch's own leave little of what an image is
            part.weight.mul_(3.0)
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.momentum = None
            part.reset_running_stats()
            part.train()
    module(x)
    module.eval()
    last = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)][-1]
    assert last.bias is not None
    deviation, mean = torch.std_mean(module(x), dim=0)
    last.weight.div_(deviation.view(-1, *[1] * (last.weight.dim() - 1)))
    last.bias.sub_(mean).div_(deviation)
    return module


def planned(
    module: nn.Module, images: NDArray[np.uint8], *bit_widths: int, **settings: Any
) -> Network:
    """The network of a module that takes (byte - 128) / 64, calibrated on the images."""
    found = plan_module(module, torch.from_numpy(images[:2]).float())
    spec = NetworkSpec(
        name="own",
        classes=found.plan.classes,
        input_size=images.shape[2],
        bit_widths=bit_widths,
        **settings,
    )
    network = Network(spec, found.plan)
    network.load_float(found.tensors)
    calibrate(network, images)
    return network


def plan_module(
    module: nn.Module,
    example: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    wide: Sequence[str] = (),
) -> Planned:
    """The plan of a module and its tensors, as ``quantize`` makes them."""
    normalization = normalization_of(mean, std, channels=example.shape[1])
    return plan_of(trace(module, example), normalization=normalization, wide=tuple(wide))
