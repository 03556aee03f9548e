"""Separate bit-widths for single layers, by name.

A layer's bit-width is that of its weights and of the codes that it *outputs*, where these follow
the bit-width at all: an output on an 8-bit stream stays at 8 bits.  The names are those of the
plan's steps: convolutions and linear layers have the paths of their modules, and ``NAME.enter`` is
where a stream is requantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from deploy.core.errors import InputError
from training.quantized_layers import weight_quantizer
from training.quantizers import FLOAT, STREAM_BITS, LearnedScale, OwnBits

if TYPE_CHECKING:
    from training.quantize.network import Network


def quantizers_of(network: Network) -> dict[str, tuple[OwnBits, ...]]:
    """The quantizers that follow the bit-width, by the name of their layer."""
    found: dict[str, tuple[OwnBits, ...]] = {}
    for step in network.plan.steps:
        if step.kind == "requantize":
            found[step.name] = (cast(OwnBits, network.scale_of(step.name)),)
        elif step.kind == "linear":
            found[step.name] = (weight_quantizer(cast(Any, network.layer(step.name)).linear),)
        elif step.kind == "convolution":
            conv = cast(Any, network.layer(step.name)).conv
            weights = () if conv is None else (weight_quantizer(conv),)
            scale = network.scale_of(step.name)
            codes = (scale,) if isinstance(scale, LearnedScale) and not scale.stream else ()
            found[step.name] = (*weights, *codes)
    return found


def assign_bit_widths(network: Network, mixed: Mapping[int, Mapping[str, int]]) -> None:
    """Assign separate bit-widths to layers: for a bit-width of the network, bits by layer name.

    The name of a module stands for all layers in it; a layer's own name takes precedence over it.

    Raises:
        InputError: a bit-width that the network does not have, an unknown name (the message lists
            the valid ones), bits that are not 2 to 8.
    """
    layers = quantizers_of(network) if mixed else {}
    groups = {name[:place] for name in layers for place, letter in enumerate(name) if letter == "."}
    for mode, wanted in mixed.items():
        if mode == FLOAT or mode not in network.bit_widths:
            valid = ", ".join(str(b) for b in network.bit_widths if b != FLOAT) or "none"
            raise InputError(
                f"network.mixed: {mode} is not a quantized bit-width of the network, "
                f"which has {valid}"
            )
        unknown = sorted(set(wanted) - set(layers) - groups)
        if unknown:
            raise InputError(
                f"network.mixed.{mode}: {network.spec.name} has no layer {unknown[0]!r}; it has "
                f"{', '.join(sorted(groups) + list(layers))}"
            )
        for name in sorted(wanted, key=lambda name: (name in layers, len(name))):
            bits = wanted[name]
            if not 2 <= bits <= STREAM_BITS:
                raise InputError(
                    f"network.mixed.{mode}: {name} must have 2 to {STREAM_BITS} bits, got {bits}"
                )
            for layer, quantizers in layers.items():
                if layer == name or (name in groups and layer.startswith(f"{name}.")):
                    for quantizer in quantizers:
                        quantizer.assign(mode, bits)
