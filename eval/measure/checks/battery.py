"""All checks of one network at one bit-width, in the catalogue's order.

First come the checks of single passes: the gradient at the patch and the outputs of the network.
Then come those that compare the white-box attack with another attack, paired over the same images.
Last come those of what the attack must achieve where nothing can stop it, and of whether its
successes persist.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deploy.core.errors import InputError
from deploy.core.share import share_of
from deploy.core.sparse_rs import SparseRsSettings, search_per_image
from deploy.core.statistics import paired_difference
from eval.attacks.adaptive.victim import Victim, found_random
from eval.attacks.predictions import evaluation_mode, logits
from eval.measure.checks.attacked_network import AttackedNetwork, BatterySettings
from eval.measure.checks.checks_record import ALWAYS, CheckResult, Flags, percent, result, status
from eval.measure.checks.unfinished import Unfinished
from eval.measure.fakes import FAKES, planted
from training.prediction import SwitchableNetwork
from training.quantizers import FLOAT

Check = Callable[[AttackedNetwork], CheckResult]


def run_battery(
    network: SwitchableNetwork,
    bits: int,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    settings: BatterySettings,
    *,
    source: SwitchableNetwork | None = None,
    undefended: SwitchableNetwork | None = None,
    only: Collection[str] | None = None,
    done: Callable[[str], None] = lambda _: None,
    resume_from: Path | None = None,
    identity: str = "",
) -> list[CheckResult]:
    """Run every check, or those named by ``only``; the others are then *not run*.

    Args:
        images: uint8 N×3×H×W; those that the network classifies correctly are attacked.
        labels: int64 N.
        source: the network that a transferred patch is made on, at 32 bits.
        undefended: the network that the attack must break, at this bit-width if it has it.
        done: called with the name of each check after it.
        resume_from: a file that stores the finished checks after each one; a battery that is
            restarted with it continues, to the same results. The file is not deleted.
        identity: of the battery, for that file.

    Raises:
        NothingToEvaluate: the network classifies none of the images correctly.
        InputError: ``resume_from`` is damaged, or belongs to another battery.
    """
    attacked = AttackedNetwork(network, bits, images, labels, settings)
    so_far = Unfinished(resume_from, identity, *attacked.images.shape[:2])
    attacked.attacks = so_far.attacks
    for name, check in _checks(source, undefended).items():
        if name not in so_far.results:
            asked = only is None or name in only
            so_far.keep(check(attacked) if asked else result(name, "not run", "not asked for"))
        done(name)
    return list(so_far.results.values())


def _checks(source: SwitchableNetwork | None, weak: SwitchableNetwork | None) -> dict[str, Check]:
    return {
        "gradient-reaches-patch": gradient_reaches_patch,
        "zero-gradients": zero_gradients,
        "logits": gives_logits,
        "randomness": randomness,
        "single-step": single_step,
        "doubled-steps": doubled_steps,
        "random-patch": random_patch,
        "gradient-free": gradient_free,
        "transfer": lambda attacked: transfer(attacked, source),
        "area": area,
        "full-image": full_image,
        "loss-surface": loss_surface,
        "bytes": bytes_kept,
        "undefended": lambda attacked: undefended(attacked, weak),
        "planted-fakes": lambda attacked: planted_fakes(attacked, weak),
    }


def gradient_reaches_patch(attacked: AttackedNetwork) -> CheckResult:
    """The loss after a step of 4 pixel values along the gradient's sign, against random signs."""
    start = attacked.start(attacked.settings.size_px)
    before, gradient = attacked.loss_and_gradient(start, "margin")
    signs = torch.randint(0, 2, gradient.shape, generator=attacked.draw("signs")) * 2.0 - 1.0
    rises = []
    for direction in (gradient.sign(), signs):
        moved = (start.float() + 4.0 * direction).clamp(0.0, 255.0)
        after, _ = attacked.loss_and_gradient(moved, "margin")
        rises.append((after > before).numpy())
    along, by_chance = rises
    lead, interval = paired_difference(along, by_chance)
    return result(
        "gradient-reaches-patch",
        status(tripped=lead <= 0.0, passed=interval.low > 0.0),
        f"the loss rises on {percent(along)} of the images along the gradient, "
        f"{percent(by_chance)} at random",
        along=share_of(along),
        random=share_of(by_chance),
    )


def zero_gradients(attacked: AttackedNetwork) -> CheckResult:
    """NaN and zero gradients in the patch, under both losses."""
    start = attacked.start(attacked.settings.size_px)
    figures: dict[str, Any] = {}
    broken, least, most = False, 0.0, 0.0
    for loss in ("margin", "cross-entropy"):
        _, gradient = attacked.loss_and_gradient(start, loss)
        nan = (~torch.isfinite(gradient)).flatten(1).any(dim=1).numpy()
        zero = (gradient == 0).flatten(1).all(dim=1).numpy()
        figures[loss] = {"nan": share_of(nan), "zero": share_of(zero)}
        broken |= bool(nan.any())
        least = max(least, figures[loss]["zero"]["low"])
        most = max(most, figures[loss]["zero"]["high"])
    said = ", ".join(
        f"{loss}: zero on {of['zero']['value']:.1%}, NaN on {of['nan']['value']:.1%}"
        for loss, of in figures.items()
    )
    verdict = status(tripped=broken or least > 0.05, passed=most < 0.1)
    return result("zero-gradients", verdict, said, **figures)


def gives_logits(attacked: AttackedNetwork) -> CheckResult:
    """Whether the outputs are a distribution."""
    found = logits(attacked.network, attacked.images, attacked.bits)
    sums = np.abs(found.sum(axis=1) - 1.0).max()
    distribution = bool(found.min() >= 0.0 and found.max() <= 1.0 and sums < 1e-3)
    return result(
        "logits",
        "tripped" if distribution else "passed",
        f"outputs in {found.min():.2f}…{found.max():.2f}",
        least=float(found.min()),
        most=float(found.max()),
    )


def randomness(attacked: AttackedNetwork) -> CheckResult:
    """Whether two passes over the same images differ."""
    found = found_random(attacked.network, attacked.pixels[:32].float(), attacked.bits)
    names = [name for name, differs in found.items() if differs]
    return result(
        "randomness",
        "tripped" if names else "passed",
        f"two passes differ in {' and '.join(names)}" if names else "two passes are the same",
        **found,
    )


def loss_surface(attacked: AttackedNetwork) -> CheckResult:
    """The cosine of the patch's gradients at two points two pixel values apart."""
    start = attacked.start(attacked.settings.size_px).float()
    shift = torch.randint(0, 2, start.shape, generator=attacked.draw("shift")) * 4.0 - 2.0
    one, other = (
        attacked.loss_and_gradient(patch, "margin")[1].flatten(1)
        for patch in (start, (start + shift).clamp(0.0, 255.0))
    )
    cosine = float(torch.nan_to_num(torch.cosine_similarity(one, other, dim=1)).mean())
    return result(
        "loss-surface",
        "passed" if cosine >= 0.2 else "tripped",
        f"mean cosine {cosine:.2f}",
        cosine=cosine,
    )


def single_step(attacked: AttackedNetwork) -> CheckResult:
    """One step of the attack's whole length, against all its steps."""
    return _weaker("single-step", attacked.won(steps=1), attacked.won(), "one step")


def random_patch(attacked: AttackedNetwork) -> CheckResult:
    """The random starts themselves, unchanged."""
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
            positions=attacked.positions((size, size)).numpy().astype(np.int32),
        )
    return _not_stronger(
        "gradient-free", attacked.rescored(found.patch), attacked.won(), "Sparse-RS"
    )


_NEVER = 1e9
"""A margin that no logits reach: with it an attack takes all its steps."""


def transfer(attacked: AttackedNetwork, source: SwitchableNetwork | None) -> CheckResult:
    """The same attack on another network's float mode, with all its steps: a patch that barely wins
    there does not transfer."""
    if source is None:
        return result("transfer", "not run", "no other network was given (--source)")
    settings = attacked.settings
    victim = Victim(network=source, bit_widths=(FLOAT,))
    start = attacked.start(settings.size_px)
    found = attacked.ascend(victim, start, settings.steps, confidence=_NEVER)
    return _not_stronger(
        "transfer", attacked.rescored(found.patch.numpy()), attacked.won(), "the transferred one"
    )


def area(attacked: AttackedNetwork) -> CheckResult:
    """The attack with patches of half the side, the side, and twice the side."""
    side, size = min(attacked.images.shape[2:]), attacked.settings.size_px
    sizes = [s for s in sorted({size // 2, size, size * 2}) if s <= side]
    won = [attacked.won(size_px=s) for s in sizes]
    backwards = any(
        paired_difference(smaller, larger)[1].low > 0.0 for smaller, larger in combinations(won, 2)
    )
    rates = [flags.mean() for flags in won]
    flat = len(set(rates)) == 1 and rates[0] < ALWAYS
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


BROKEN = 0.9
"""Least ASR on a network that is known to have no defense."""


def full_image(attacked: AttackedNetwork) -> CheckResult:
    """A patch that hides the image, from random pixels and from grey.

    A network that was trained on many random patches may put an image of random pixels into one
    class, too far inside it for any gradient. A second start is fair there.
    """
    height, width = attacked.images.shape[2:]
    steps = attacked.settings.steps
    grey = torch.full(attacked.images.shape, 128, dtype=torch.uint8)
    from_grey = attacked.ascend(attacked.victim, grey, steps)
    won = attacked.attack(height, width, steps)[0] | (from_grey.margin.numpy() > 0)
    rate = share_of(won)
    verdict = status(tripped=rate["high"] < 0.99, passed=rate["value"] >= 0.99)
    return result("full-image", verdict, percent(won), asr=rate)


def bytes_kept(attacked: AttackedNetwork) -> CheckResult:
    """Claimed successes, checked again on PNG files that are read back."""
    claimed = attacked.won()
    pasted = attacked.pasted(attacked.patches())
    read = np.stack([_png_and_back(image) for image in pasted])
    same = bool(np.array_equal(read, pasted))
    again = logits(attacked.network, read, attacked.bits).argmax(axis=1) != attacked.labels
    _, interval = paired_difference(claimed, again)
    lost = float(claimed.mean() - again.mean())
    return result(
        "bytes",
        status(tripped=not same or interval.low > 0.01, passed=same and lost < 0.01),
        f"{percent(claimed)} as the attack saw it, {percent(again)} from files",
        claimed=share_of(claimed),
        again=share_of(again),
    )


def undefended(attacked: AttackedNetwork, network: SwitchableNetwork | None) -> CheckResult:
    """This attack on a network without a defense, at this bit-width if it has it, else in float."""
    if network is None:
        return result("undefended", "not run", "no undefended network was given (--undefended)")
    bits = _bits_of(network, attacked.bits)
    won = AttackedNetwork(network, bits, attacked.images, attacked.labels, attacked.settings).won()
    rate = share_of(won)
    verdict = status(tripped=rate["high"] < BROKEN, passed=rate["value"] >= BROKEN)
    return result("undefended", verdict, f"{percent(won)} there", asr=rate, bit_width=bits)


def planted_fakes(attacked: AttackedNetwork, network: SwitchableNetwork | None) -> CheckResult:
    """The undefended network behind each fake, attacked by someone who knows the fake.

    The gradient is that of the network behind the fake. Success is judged on the fake's own
    answers, and on fresh ones where they are random; an image is attacked until its margin is three
    times the noise.
    """
    if network is None:
        return result("planted-fakes", "not run", "no undefended network was given (--undefended)")
    bits = _bits_of(network, attacked.bits)
    rates = {}
    for name in sorted(FAKES):
        fake = planted(name, network)
        behind = AttackedNetwork(
            fake,
            bits,
            attacked.images,
            attacked.labels,
            attacked.settings,
            stand_in=network,
            noise=_noise(fake, attacked.images[:32], bits),
        )
        rates[name] = share_of(behind.rescored(behind.patches()))
    return result(
        "planted-fakes",
        status(
            tripped=any(rate["high"] < BROKEN for rate in rates.values()),
            passed=all(rate["value"] >= BROKEN for rate in rates.values()),
        ),
        ", ".join(f"{name} {100 * rate['value']:.1f}%" for name, rate in rates.items()),
        bit_width=bits,
        **rates,
    )


def _noise(fake: SwitchableNetwork, images: NDArray[np.uint8], bits: int) -> float:
    """The standard deviation that the fake's randomness gives a margin, as an attacker measures it:
    a margin is the difference of two logits, so it varies like one logit between two answers."""
    one, other = (logits(fake, images, bits) for _ in range(2))
    return float((one - other).std())


def _bits_of(network: SwitchableNetwork, bits: int) -> int:
    try:
        with network.at(bits):
            return bits
    except InputError:  # it was not trained at this bit-width
        return FLOAT


def _png_and_back(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = io.BytesIO()
    shown = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(shown).save(file, format="PNG")
    file.seek(0)
    with Image.open(file) as read:
        back = np.asarray(read, dtype=np.uint8)
    return back[None] if back.ndim == 2 else back.transpose(2, 0, 1)
