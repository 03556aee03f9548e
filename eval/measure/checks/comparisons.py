"""Checks that hold the white-box attack against another one, paired over the same images."""

from __future__ import annotations

import numpy as np

from deploy.core.share import share_of
from deploy.core.sparse_rs import SparseRsSettings, search_per_image
from deploy.core.statistics import paired_difference
from eval.attacks.adaptive.victim import Victim
from eval.attacks.predictions import SwitchableNetwork, evaluation_mode, logits
from eval.measure.checks.attacked_network import AttackedNetwork
from eval.measure.checks.checks_record import ALWAYS, CheckResult, Flags, percent, result, status
from training.quantizers import FLOAT


def single_step(attacked: AttackedNetwork) -> CheckResult:
    """One step of the attack's whole length against all of them."""
    return _weaker("single-step", attacked.won(steps=1), attacked.won(), "one step")


def random_patch(attacked: AttackedNetwork) -> CheckResult:
    """The starts themselves, as they are."""
    noise = attacked.rescored(attacked.start(attacked.settings.size_px).numpy())
    return _weaker("random-patch", noise, attacked.won(), "random pixels")


def doubled_steps(attacked: AttackedNetwork) -> CheckResult:
    """The gain from twice the steps."""
    steps = attacked.settings.steps
    once, twice = attacked.won(), attacked.won(steps=2 * steps)
    gain, interval = paired_difference(twice, once)
    return result(
        "doubled-steps",
        status(tripped=interval.low > 0.01, passed=abs(gain) < 0.01),
        f"{percent(once)} at {steps} steps, {percent(twice)} at twice as many",
        once=share_of(once),
        twice=share_of(twice),
    )


def gradient_free(attacked: AttackedNetwork) -> CheckResult:
    """Sparse-RS at the same places."""
    size, settings = attacked.settings.size_px, attacked.settings
    with evaluation_mode(attacked.network):
        found = search_per_image(
            lambda images: logits(attacked.network, images, attacked.bits),
            attacked.images,
            attacked.labels,
            SparseRsSettings(size_px=size, queries=settings.queries, location="fixed"),
            np.random.default_rng(settings.seed),
            positions=attacked.positions(size).numpy().astype(np.int32),
        )
    return _not_stronger(
        "gradient-free", attacked.rescored(found.patch), attacked.won(), "Sparse-RS"
    )


def transfer(attacked: AttackedNetwork, source: SwitchableNetwork | None) -> CheckResult:
    """The same attack on another network's float mode."""
    if source is None:
        return result("transfer", "not run", "no other network was given (--source)")
    settings = attacked.settings
    victim = Victim(network=source, bit_widths=(FLOAT,))
    patch = attacked.ascend(victim, settings.size_px, settings.steps).patch.numpy()
    return _not_stronger(
        "transfer", attacked.rescored(patch), attacked.won(), "the transferred one"
    )


def area(attacked: AttackedNetwork) -> CheckResult:
    """Half the side, the side, twice the side."""
    side, size = min(attacked.images.shape[2:]), attacked.settings.size_px
    sizes = [s for s in sorted({size // 2, size, size * 2}) if s <= side]
    won = [attacked.won(size_px=s) for s in sizes]
    backwards = any(paired_difference(won[i], won[i + 1])[1].low > 0.0 for i in range(len(won) - 1))
    rates = [flags.mean() for flags in won]
    flat = rates[-1] <= rates[0] and rates[0] < ALWAYS
    rising = paired_difference(won[-1], won[0])[1].low > 0.0 or rates[0] >= ALWAYS
    return result(
        "area",
        status(tripped=backwards or flat, passed=rising),
        ", ".join(f"{percent(w)} at {s} px" for w, s in zip(won, sizes, strict=True)),
        **{f"{s}px": share_of(flags) for s, flags in zip(sizes, won, strict=True)},
    )


def _weaker(name: str, weak: Flags, strong: Flags, words: str) -> CheckResult:
    lead, interval = paired_difference(strong, weak)
    always = bool(weak.mean() >= ALWAYS)
    return result(
        name,
        status(tripped=lead <= 0.0 and not always, passed=interval.low > 0.0 or always),
        f"{words} {percent(weak)}, the attack {percent(strong)}",
        weak=share_of(weak),
        attack=share_of(strong),
    )


def _not_stronger(name: str, other: Flags, strong: Flags, words: str) -> CheckResult:
    lead, interval = paired_difference(other, strong)
    return result(
        name,
        status(tripped=interval.low > 0.0, passed=lead <= 0.0),
        f"{words} {percent(other)}, the attack {percent(strong)}",
        other=share_of(other),
        attack=share_of(strong),
    )
