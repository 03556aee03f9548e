"""The positions of each convolution's output that can see a patch, and those that lie under it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.quantize import Plan
from training.quantize.plan import Step


def seen_regions(plan: Plan, region: Tensor) -> dict[str, Tensor]:
    """The positions whose receptive field meets the region, for each convolution.

    The receptive field follows only from kernels, strides and paddings, along every path: outside
    of these positions nothing changes when the region's pixels change.

    Args:
        plan: of the network.
        region: bool N×H×W, of the pixels.

    Returns:
        By the names of the plan's convolutions, bool N×h×w each.
    """
    seen: dict[str, Tensor] = {}
    for step in plan.steps:
        inputs = [seen[name] for name in step.inputs]
        seen[step.name] = _through(step, inputs, region)
    return {step.name: seen[step.name] for step in plan.steps if step.kind == "convolution"}


def under_region(region: Tensor, size: tuple[int, int]) -> Tensor:
    """The positions of an h×w output whose centre lies in the region, or the nearest one to it.

    Output position (i, j) of h×w has its centre at pixel ((i + ½) H / h, (j + ½) W / w).  Where the
    output is so coarse that no centre is in the region, the position whose cell covers most of the
    region is taken, so that every image has a position.

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


def _through(step: Step, inputs: list[Tensor], region: Tensor) -> Tensor:
    """Which positions of a step's output the region reaches; a vector's one position always."""
    found = step.attributes
    match step.kind:
        case "pixels":
            return region
        case "convolution" | "max pool" | "average pool":
            spread = found.get("dilation", (1, 1))
            return _window(
                inputs[0], found["kernel"], found["stride"], found["padding"], tuple(spread)
            )
        case "pad":
            top, left, bottom, right = found["amounts"]
            return F.pad(inputs[0], (left, right, top, bottom))
        case "reshape" | "transpose" if not _positions_stay(step, inputs[0]):
            # Movements of positions are not tracked: each position may have been reached.
            everywhere = inputs[0].flatten(1).any(dim=1)[:, None, None]
            return everywhere.expand(-1, *step.shape[-2:])
        case "upsample":
            down, right = found["factor"]
            return inputs[0].repeat_interleave(down, dim=1).repeat_interleave(right, dim=2)
        case "gate":
            # A gate of one position affects every position.
            gate = inputs[1]
            whole = gate.shape[1:] != inputs[0].shape[1:]
            return inputs[0] | (gate.flatten(1).any(dim=1)[:, None, None] if whole else gate)
    reached = inputs[0]
    for other in inputs[1:]:
        reached = reached | other
    return reached


def _positions_stay(step: Step, here: Tensor) -> bool:
    order = step.attributes.get("order", [0])
    last = [len(order) - 2, len(order) - 1]
    return step.shape[-2:] == here.shape[1:] and (len(order) == 1 or order[-2:] == last)


def _window(
    here: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: tuple[int, ...],
) -> Tensor:
    """True where a window holds a True: bool N×h×w."""
    top, left, bottom, right = padding
    padded = F.pad(here[:, None].float(), (left, right, top, bottom))
    return F.max_pool2d(padded, kernel, stride, 0, dilation)[:, 0] > 0.0
