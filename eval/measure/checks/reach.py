"""Checks of what the attack must reach where nothing can stop it, and that it keeps what it won."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deploy.core.errors import InputError
from deploy.core.share import share_of
from deploy.core.statistics import paired_difference
from eval.attacks.predictions import SwitchableNetwork, logits
from eval.measure.checks.attacked_network import AttackedNetwork
from eval.measure.checks.checks_record import CheckResult, percent, result, status
from eval.measure.fakes import FAKES, planted
from training.quantizers import FLOAT

BROKEN = 0.9
"""Least ASR on a network that is known to have no defense."""


def full_image(attacked: AttackedNetwork) -> CheckResult:
    """A patch that hides the image, from random pixels and from grey.

    Pixels that are random all over are one class to a network that has met many such patches while
    it was trained, too far inside it for any gradient: there a second start is fair.
    """
    size = min(attacked.images.shape[2:])
    grey = torch.full((len(attacked.images), 3, size, size), 128, dtype=torch.uint8)
    from_grey = attacked.ascend(attacked.victim, size, attacked.settings.steps, grey)
    won = attacked.won(size_px=size) | (from_grey.margin.numpy() > 0)
    rate = share_of(won)
    verdict = status(tripped=rate["high"] < 0.99, passed=rate["value"] >= 0.99)
    return result("full-image", verdict, percent(won), asr=rate)


def bytes_kept(attacked: AttackedNetwork) -> CheckResult:
    """Claimed successes again, from PNG files that are read back."""
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

    The gradient is that of the network behind it. Success is judged on the fake's own answers: on
    fresh ones where they are random, and an image is attacked until its margin is three times the
    noise.
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
    """Standard deviation that the fake's randomness gives a margin, as an attacker measures it: a
    margin is the difference of two logits, and so varies as one logit does between two answers."""
    one, other = (logits(fake, images, bits) for _ in range(2))
    return float((one - other).std())


def _bits_of(network: SwitchableNetwork, bits: int) -> int:
    try:
        with network.at(bits):
            return bits
    except InputError:  # it was not trained for this one
        return FLOAT


def _png_and_back(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, format="PNG")
    file.seek(0)
    with Image.open(file) as read:
        return np.asarray(read, dtype=np.uint8).transpose(2, 0, 1)
