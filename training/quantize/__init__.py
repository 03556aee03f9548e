"""One way from any float torch network to a network of codes: trace, plan, layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from deploy.core.errors import InputError
from training.quantize.graph import Refusal, Refused
from training.quantize.network import Network
from training.quantize.plan import Plan
from training.quantize.planning import Normalization, Planned, plan_of
from training.quantize.trace import trace

__all__ = ["Plan", "Network", "Refusal", "Refused", "plan_module"]


def plan_module(
    module: nn.Module,
    example: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    wide: Sequence[str] = (),
) -> Planned:
    """Trace and plan a float module.

    Args:
        module: a classifier of images, in any mode; it is left as it is.
        example: float32 N×C×H×W, what the module takes; the values do not matter.
        mean: of each channel, 0…1: the module takes (byte / 255 - mean) / std. None, with ``std``:
            it takes (byte - 128) / 64.
        std: of each channel, above 0.
        wide: patterns (``head.*``) of layers whose weights and codes keep 8 bits at every
            bit-width.

    Raises:
        Refused: operations that cannot be taken, all of them.
        InputError: as :func:`training.quantize.trace.trace`; mean without std, or of other
            channels than the example has; a pattern that no layer fits.
    """
    normalization = _normalization(mean, std, example.shape[1] if example.dim() == 4 else 0)
    graph = trace(module, example)
    return plan_of(graph, normalization=normalization, wide=wide)


def _normalization(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> Normalization | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        given, other = ("mean", "std") if std is None else ("std", "mean")
        raise InputError(f"{given} was given without {other}; give both, or neither")
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise InputError(
            f"expected {channels} means and {channels} standard deviations above 0, got "
            f"{list(mean)} and {list(std)}"
        )
    return Normalization(mean=tuple(map(float, mean)), std=tuple(map(float, std)))
