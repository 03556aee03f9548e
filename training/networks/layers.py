"""The layers of a network by the names that the exported files give them.

``stem``, then ``convI`` or ``blockI`` for the part at position I (max-pools count and have no
layer), ``linear`` last.  A block's layers are ``blockI.enter`` (the codes that its branch reads),
``blockI.first``, ``.second``, ``.third``, ``.shortcut`` or ``.expand``, ``.depthwise``,
``.project``; a unit that reads a wider stream has ``convI.enter``.

A layer's bit-width is that of its weights and of the codes that it *gives*, where these follow the
bit-width at all: what goes onto an 8-bit stream stays at 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from deploy.core.errors import InputError
from training.networks.inverted_residual import InvertedResidual, StreamUnit
from training.networks.network import Network
from training.networks.units import ConvUnit, MaxPool, ResidualBlock
from training.quantized_layers import weight_quantizer
from training.quantizers import FLOAT, STREAM_BITS, OwnBits

_BLOCK_UNITS = ("first", "second", "third", "expand", "depthwise", "project", "shortcut")


def part_name(part: nn.Module, index: int) -> str:
    """The name of the part at position ``index`` of ``network.blocks``."""
    match part:
        case ConvUnit() | StreamUnit():
            return f"conv{index}"
        case MaxPool():
            return f"maxpool{index}"
        case ResidualBlock() | InvertedResidual():
            return f"block{index}"
    raise TypeError(f"{type(part).__name__} is no part of a network")


def units_of(network: Network) -> dict[str, ConvUnit]:
    """Every convolution unit by name, in the order of the network."""
    units = {"stem": network.stem}
    for index, part in enumerate(network.blocks):
        name = part_name(part, index)
        if isinstance(part, ConvUnit):
            units[name] = part
        elif isinstance(part, StreamUnit):
            units[name] = part.unit
        else:
            for place in _BLOCK_UNITS:
                unit = getattr(part, place, None)
                if isinstance(unit, ConvUnit):
                    units[f"{name}.{place}"] = unit
    return units


def quantizers_of(network: Network) -> dict[str, tuple[OwnBits, ...]]:
    """The quantizers that follow the bit-width, by the name of their layer."""
    found: dict[str, tuple[OwnBits, ...]] = {}
    for name, unit in units_of(network).items():
        codes = () if unit.output.scale.stream else (unit.output.scale,)
        found[name] = (weight_quantizer(unit.conv), *codes)
    for index, part in enumerate(network.blocks):
        if isinstance(part, ResidualBlock | InvertedResidual | StreamUnit):
            found[f"{part_name(part, index)}.enter"] = (part.branch_codes,)
    found["linear"] = (weight_quantizer(network.head.linear),)
    return found


def assign_bit_widths(network: Network, mixed: Mapping[int, Mapping[str, int]]) -> None:
    """Give layers bit-widths of their own: for a bit-width of the network, bits by layer name.

    The name of a block stands for all its layers; a layer's own name goes before it.

    Raises:
        InputError: a bit-width that the network has not, an unknown name (the valid ones are
            named), bits that are not 2 to 8.
    """
    layers = quantizers_of(network)
    blocks = {name.partition(".")[0] for name in layers if "." in name}
    for mode, wanted in mixed.items():
        if mode == FLOAT or mode not in network.bit_widths:
            valid = ", ".join(str(b) for b in network.bit_widths if b != FLOAT) or "none"
            raise InputError(
                f"network.mixed: {mode} is no quantized bit-width of the network; it has {valid}"
            )
        unknown = sorted(set(wanted) - set(layers) - blocks)
        if unknown:
            raise InputError(
                f"network.mixed.{mode}: {network.spec.name} has no layer {unknown[0]!r}; it has "
                f"{', '.join(sorted(blocks) + list(layers))}"
            )
        for name in sorted(wanted, key=lambda name: name in layers):
            bits = wanted[name]
            if not 2 <= bits <= STREAM_BITS:
                raise InputError(
                    f"network.mixed.{mode}: {name} must have 2 to {STREAM_BITS} bits, got {bits}"
                )
            for layer, quantizers in layers.items():
                if layer == name or (name in blocks and layer.startswith(f"{name}.")):
                    for quantizer in quantizers:
                        quantizer.assign(mode, bits)
