"""One way from any float torch network to a network of codes: trace, plan, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from deploy.core.errors import InputError
from training.network_spec import CodesRecipe, NetworkSpec, ScaleRecipe
from training.networks.registry import NETWORKS
from training.quantize.graph import Refusal, Refused
from training.quantize.network import Network
from training.quantize.plan import Plan
from training.quantize.planning import plan_of
from training.quantize.rewriting import normalization_of
from training.quantize.trace import trace

__all__ = ["Network", "Plan", "Refusal", "Refused", "quantize"]


def quantize(
    module: nn.Module,
    example: Tensor,
    *,
    bits: Sequence[int] = (32, 8, 5, 4, 2),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    wide: Sequence[str] = (),
    mixed: Mapping[int, Mapping[str, int]] | None = None,
    exact: bool = False,
    activation_scales: ScaleRecipe = "learned",
    weight_scales: ScaleRecipe = "statistics",
    codes: CodesRecipe = "uint8",
    name: str | None = None,
) -> Network:
    """Build a network of codes from any traceable float classifier, with its weights.

    It has scales after training, or after :func:`training.quantize.calibration.calibrate`.

    Args:
        module: a classifier of images, in any mode; it is not changed. A softmax at its end is
            left out: the network gives the logits before it.
        example: an input of the module, float32 N×C×H×W; the values do not matter.
        bits: bit-widths, 2 to 8 and 32 (float).
        mean: of each channel, 0…1: the module takes (byte / 255 - mean) / std. None, with ``std``:
            it takes (byte - 128) / 64.
        std: of each channel, above 0.
        wide: patterns (``head.*``) of layers whose weights and codes keep 8 bits at every
            bit-width.
        mixed: for a bit-width, the bits of the layers that use other bits then, by layer name.
        exact: scales are powers of two, and torch computes the results of integer arithmetic bit
            for bit.
        activation_scales: "learned" or from "statistics".
        weight_scales: likewise.
        codes: "int8": unsigned 8-bit codes end at 127, so that engines that support only int8 with
            zero point 0 (TensorRT) can store the network's own codes.
        name: of the network in files and tables; None: the name of the module's class, prefixed
            with "own-" where the project has a network of that name.

    Returns:
        An ordinary ``nn.Module`` that takes float32 pixel values 0…255, N×C×H×W, in training mode.

    Raises:
        Refused: operations that cannot be quantized; the message lists all of them.
        InputError: as :func:`training.quantize.trace.trace`; mean without std, or for a number of
            channels that the example does not have; unknown bit-widths or layers; a name that
            belongs to one of the project's networks.

    Example:
        >>> module = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        ...     nn.Flatten(), nn.Linear(8, 3))
        >>> network = qadtr.quantize(module, torch.zeros(1, 3, 16, 24), bits=(32, 8, 4))
        >>> network(torch.zeros(2, 3, 16, 24)).shape
        torch.Size([2, 3])
    """
    if name in NETWORKS:
        raise InputError(
            f"{name!r} is the name of a network of this project, whose checkpoints must have its "
            "structure; give this network another name"
        )
    channels = example.shape[1] if isinstance(example, Tensor) and example.dim() == 4 else 0
    normalization = normalization_of(mean, std, channels=channels)
    found = plan_of(trace(module, example), normalization=normalization, wide=tuple(wide))
    _, height, width = found.plan.input_shape
    spec = NetworkSpec(
        name=_name(module) if name is None else name,
        bit_widths=tuple(bits),
        exact=exact,
        mixed=dict(mixed or {}),
        activation_scales=activation_scales,
        weight_scales=weight_scales,
        codes=codes,
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        wide=tuple(wide),
        classes=found.plan.classes,
        input_size=height if height == width else (height, width),
    )
    network = Network(spec, found.plan)
    network.load_float(found.tensors)
    return network


def _name(module: nn.Module) -> str:
    own = type(module).__name__.lower()
    return f"own-{own}" if own in NETWORKS else own
