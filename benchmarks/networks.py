"""Networks with the operators and shapes of trained ones, for figures that no prediction enters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network


@torch.no_grad()
def warmed_network(
    name: str, bit_widths: Sequence[int], *, size: int = 32, classes: int = 10, seed: int = 0
) -> Network:
    """A network with drawn weights whose statistics and scales come from a few random images.

    Its predictions mean nothing; its operators and shapes are those of a trained one.
    """
    generator = torch.Generator().manual_seed(seed)
    spec = NetworkSpec(name=name, classes=classes, input_size=size, bit_widths=tuple(bit_widths))
    network = build_network(spec, generator)
    batch = 32 if size <= 64 else 4
    for bits in bit_widths:
        network.set_bit_width(bits)
        for _ in range(8 if size <= 64 else 2):
            network(torch.randint(0, 256, (batch, 3, size, size), generator=generator).float())
    return network.for_evaluation()


@torch.no_grad()
def multiply_adds(network: Network) -> int:
    """Multiply-adds of one image through the convolutions and the linear layer."""
    total = 0

    def count(module: nn.Module, _: object, output: object) -> None:
        nonlocal total
        found = output if isinstance(output, Tensor) else getattr(output, "value", None)
        assert isinstance(found, Tensor)
        assert isinstance(module.weight, Tensor)
        total += module.weight.numel() * (found[0, 0].numel() if found.ndim == 4 else 1)

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    size = network.spec.image_size[0]
    network(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return total
