"""Which positions of each convolution's output can see a patch, and which lie under it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.inverted_residual import InvertedResidual, StreamUnit
from training.networks.layers import part_name
from training.networks.network import Network
from training.networks.units import ConvUnit, MaxPool, ResidualBlock


def seen_regions(network: Network, region: Tensor) -> dict[str, Tensor]:
    """The positions whose receptive field meets the region, for each convolution unit.

    The receptive field follows from kernels, strides and paddings alone, along every path: outside
    it nothing changes when the region's pixels do.

    Args:
        network: of the parts that :mod:`training.networks` builds.
        region: bool N×H×W, of the pixels.

    Returns:
        By the names of :func:`training.networks.layers.units_of`, bool N×h×w each.
    """
    found: dict[str, Tensor] = {}
    here = _through_unit(network.stem, region, "stem", found)
    for index, part in enumerate(network.blocks):
        here = _through(part, here, part_name(part, index), found)
    return found


def under_region(region: Tensor, size: tuple[int, int]) -> Tensor:
    """The positions of an h×w output whose centre lies in the region, or the nearest one to it.

    Output position (i, j) of h×w stands for the pixel at ((i + ½) H / h, (j + ½) W / w); where the
    output is so coarse that no centre is in the region, the position whose cell covers most of the
    region is taken, so that no image is without one.

    Args:
        region: bool N×H×W, not empty for any image.
        size: (h, w).

    Returns:
        bool N×h×w.
    """
    height, width = region.shape[1:]
    rows = ((torch.arange(size[0]) + 0.5) * height / size[0]).long()
    columns = ((torch.arange(size[1]) + 0.5) * width / size[1]).long()
    under = region[:, rows][:, :, columns]
    share = F.adaptive_avg_pool2d(region[:, None].float(), size)[:, 0]
    most = share == share.amax(dim=(1, 2), keepdim=True)
    return torch.where(under.flatten(1).any(dim=1)[:, None, None], under, most)


def _through(part: nn.Module, here: Tensor, name: str, found: dict[str, Tensor]) -> Tensor:
    match part:
        case ConvUnit():
            return _through_unit(part, here, name, found)
        case StreamUnit():
            return _through_unit(part.unit, here, name, found)
        case MaxPool():
            return _window(here, part.kernel, part.stride, part.padding)
        case ResidualBlock():
            kept = here
            if part.shortcut is not None:
                kept = _through_unit(part.shortcut, here, f"{name}.shortcut", found)
            branch = here
            for place in ("first", "second", "third"):
                unit = getattr(part, place)
                if unit is not None:
                    branch = _through_unit(unit, branch, f"{name}.{place}", found)
            return branch | kept
        case InvertedResidual():
            branch = here
            for place in ("expand", "depthwise", "project"):
                branch = _through_unit(getattr(part, place), branch, f"{name}.{place}", found)
            return branch if part.leave is None else branch | here
    raise TypeError(f"{type(part).__name__} is no part of a network")


def _through_unit(unit: ConvUnit, here: Tensor, name: str, found: dict[str, Tensor]) -> Tensor:
    convolution = unit.conv
    found[name] = _window(
        here,
        int(convolution.kernel_size[0]),
        int(convolution.stride[0]),
        int(convolution.padding[0]),
    )
    return found[name]


def _window(here: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """True where a window holds a True: bool N×h×w."""
    return F.max_pool2d(here[:, None].float(), kernel, stride, padding)[:, 0] > 0.0
