"""The gradients that an attacker can take where the network rounds and clips."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from deploy.core.errors import InputError
from training.prediction import SwitchableNetwork
from training.quantizers import FLOAT, STRAIGHT_THROUGH, BitWidthSwitch

Variant = Literal["clipped", "rectified", "identity", "shadow"]
"""``clipped``, ``rectified``, ``identity``: see ``training.quantizers.STRAIGHT_THROUGH``; in
``shadow`` the logits are the quantized network's and their derivative that of its float mode."""


def variants_of(network: SwitchableNetwork, bits: int) -> tuple[Variant, ...]:
    """The variants that differ for this network at this bit-width.

    At 32 bits nothing is rounded; a network without a switch can only be attacked as it is, or
    through its float mode.
    """
    if bits == FLOAT:
        return ("clipped",)
    own: tuple[Variant, ...] = STRAIGHT_THROUGH if _switch(network) is not None else ("clipped",)
    try:
        with network.at(FLOAT):
            return (*own, "shadow")
    except InputError:  # trained only at integer bit-widths
        return own


@contextmanager
def attacked(network: SwitchableNetwork, variant: Variant) -> Iterator[None]:
    """The network as an attacker runs it: without gradient noise, and with the variant's
    straight-through gradient."""
    switch = _switch(network)
    if switch is None:
        yield
        return
    before = (switch.gradient_noise, switch.noise, switch.straight_through)
    switch.gradient_noise, switch.noise = 0.0, None
    switch.straight_through = "clipped" if variant == "shadow" else variant
    try:
        yield
    finally:
        switch.gradient_noise, switch.noise, switch.straight_through = before


def _switch(network: SwitchableNetwork) -> BitWidthSwitch | None:
    """The bit-width switch of a network, also of one inside wrappers that call it ``network``."""
    inner: object = network
    while inner is not None:
        switch = getattr(inner, "switch", None)
        if isinstance(switch, BitWidthSwitch):
            return switch
        inner = getattr(inner, "network", None)
    return None
