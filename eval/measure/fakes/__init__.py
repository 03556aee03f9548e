"""Fake defenses: wrappers that lower measured attack success and no attacker's.

They are planted around a network on purpose, to show that the checks find them.
"""

from __future__ import annotations

from collections.abc import Callable

from deploy.core.errors import InputError
from eval.attacks.predictions import SwitchableNetwork
from eval.measure.fakes.gradient_killer import GradientKiller
from eval.measure.fakes.gradient_scrambler import GradientScrambler
from eval.measure.fakes.logit_noise import LogitNoise
from eval.measure.fakes.softmax_saturator import SoftmaxSaturator
from eval.measure.fakes.wrapper import Wrapper

FAKES: dict[str, Callable[[SwitchableNetwork], Wrapper]] = {
    fake.name: fake for fake in (GradientKiller, GradientScrambler, LogitNoise, SoftmaxSaturator)
}
"""Every fake by its name."""


def planted(name: str, network: SwitchableNetwork) -> Wrapper:
    """The network behind the named fake.

    Raises:
        InputError: there is no such fake; those there are are named.
    """
    if name not in FAKES:
        raise InputError(f"Unknown fake defense {name!r}; known: {', '.join(sorted(FAKES))}.")
    return FAKES[name](network)


__all__ = ["FAKES", "Wrapper", "planted"]
