"""The adaptive attack: variants of the gradient, bytes, the cascade, randomness, resuming."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.core.errors import InputError
from deploy.core.pasting import paste
from eval.attacks.adaptive.adaptive_settings import AdaptiveSettings, cascade
from eval.attacks.adaptive.ascent import AscentSettings, ascend, likeliest_wrong
from eval.attacks.adaptive.search import Attacked, Searched, fresh_success, raise_draws, search
from eval.attacks.adaptive.straight_through import attacked, variants_of
from eval.attacks.adaptive.victim import Victim, found_random
from eval.attacks.predictions import logits, predict
from tests.eval.conftest import DigitNetwork
from training.data import ImageSet
from training.gradients import NoiseBank
from training.network_spec import NetworkSpec
from training.patching import square_mask
from training.quantize import Network
from training.quantize.build import build_network
from training.validated import read_settings

SMALL = AdaptiveSettings(size_px=8, steps=12, batch_size=32)


@pytest.fixture
def right(digit_network: DigitNetwork, held_out_digits: ImageSet) -> Attacked:
    """Forty images that the network has right at 32 and at 3 bits, patched at the centre."""
    images, labels = held_out_digits.images, held_out_digits.labels
    good = np.ones(len(images), bool)
    for bits in (32, 3):
        good &= predict(digit_network, images, bits) == labels
    rows = np.flatnonzero(good)[:40]
    return Attacked(
        images=images[rows], labels=labels[rows], positions=np.full((len(rows), 2), 12, np.int64)
    )


@pytest.fixture(scope="module")
def small_network() -> Network:
    spec = NetworkSpec(name="resnet8", classes=10, input_size=32, bit_widths=(32, 4, 2))
    network = build_network(spec, torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    for bits in spec.bit_widths:
        with network.at(bits):
            network(torch.rand(16, 3, 32, 32, generator=draw) * 255.0)
    return network.for_evaluation()


def gradient(network: Network, pixels: Tensor) -> tuple[Tensor, Tensor]:
    seen = pixels.clone().requires_grad_()
    logits = network(seen)
    return logits.detach(), torch.autograd.grad(logits[:, 0].sum(), seen)[0]


def test_variants_change_the_gradient_and_never_the_answer(small_network: Network) -> None:
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 255.0
    assert variants_of(small_network, 2) == ("clipped", "rectified", "identity", "shadow")
    assert variants_of(small_network, 32) == ("clipped",)
    found = {}
    with small_network.at(2):
        plain = gradient(small_network, pixels)
        for variant in ("clipped", "rectified", "identity"):
            with attacked(small_network, variant):
                found[variant] = gradient(small_network, pixels)
        after = gradient(small_network, pixels)
    for answer, _ in found.values():
        assert torch.equal(answer, plain[0])
    assert torch.equal(found["clipped"][1], plain[1])
    assert torch.equal(after[1], plain[1])
    assert not torch.allclose(found["rectified"][1], plain[1])
    assert not torch.allclose(found["identity"][1], found["rectified"][1])


def test_gradient_noise_is_off_while_attacking(small_network: Network) -> None:
    small_network.switch.gradient_noise = 0.5
    with attacked(small_network, "clipped"):
        assert small_network.switch.gradient_noise == 0.0
    assert small_network.switch.gradient_noise == 0.5
    small_network.switch.gradient_noise = 0.0


def test_the_expectation_over_gradient_noise_is_the_gradient_without_it(
    small_network: Network,
) -> None:
    # GIR's noise is in the backward pass of training alone: the attacker leaves it off, which is
    # what averaging over more and more draws of it comes to.
    network = copy.deepcopy(small_network)
    switch = network.switch
    switch.gradient_noise = 0.2
    switch.noise = NoiseBank(torch.Generator().manual_seed(3), length=1 << 18)
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 255.0
    with network.at(4):
        with attacked(network, "clipped"):
            off = gradient(network, pixels)[1]
        assert torch.equal(gradient(network, pixels)[1], off)  # none at inference
        network.train()
        with attacked(network, "clipped"):
            without = gradient(network, pixels)[1]
        noisy = torch.stack([gradient(network, pixels)[1] for _ in range(32)])
    cosine = [
        float(torch.cosine_similarity(noisy[:k].mean(dim=0).flatten(), without.flatten(), dim=0))
        for k in (1, 4, 32)
    ]
    assert cosine[0] < cosine[1] < cosine[2]
    assert cosine[2] > 0.95


class NoisyGradients(nn.Module):
    """The right answers, and gradients with noise that no switch turns off."""

    def __init__(self, network: DigitNetwork) -> None:
        super().__init__()
        self.network = network
        self.at = network.at
        self.generator = torch.Generator().manual_seed(6)

    def forward(self, pixels: Tensor) -> Tensor:
        noise = torch.randn(pixels.shape, generator=self.generator)
        # Its value is that of the pixels, its derivative 1 + noise.
        disturbed = pixels + (pixels - pixels.detach()) * noise
        logits: Tensor = self.network(disturbed)
        return logits


def test_noise_in_the_gradient_alone_is_randomness_too(
    digit_network: DigitNetwork, right: Attacked
) -> None:
    pixels = torch.from_numpy(right.images[:8]).float()
    found = found_random(NoisyGradients(digit_network).eval(), pixels, 32)
    assert (found["logits"], found["gradients"]) == (False, True)


def test_what_the_ascent_says_it_won_is_won_on_bytes(
    digit_network: DigitNetwork, right: Attacked
) -> None:
    victim = Victim(network=digit_network, bit_widths=(32,))
    n = len(right.images)
    start = torch.randint(
        0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8
    )
    found = ascend(
        victim,
        torch.from_numpy(right.images),
        torch.from_numpy(right.labels),
        square_mask(8),
        torch.from_numpy(right.positions),
        start,
        AscentSettings(steps=12, batch_size=16),
        torch.Generator(),
    )
    assert found.patch.dtype == torch.uint8
    draw = torch.Generator().manual_seed(4)
    (won,) = fresh_success(victim, right, found.patch.numpy(), 1, draw)
    assert np.array_equal(won, found.margin.numpy() > 0)
    (noise,) = fresh_success(victim, right, start.numpy(), 1, draw)
    assert won.mean() > noise.mean() + 0.3


def test_an_ascent_towards_a_class_raises_that_class(
    digit_network: DigitNetwork, right: Attacked
) -> None:
    victim = Victim(network=digit_network, bit_widths=(32,))
    images, labels = torch.from_numpy(right.images[:24]), torch.from_numpy(right.labels[:24])
    draw = torch.Generator().manual_seed(0)
    wrong = likeliest_wrong(victim, images, labels, draw)
    clean = torch.from_numpy(logits(digit_network, right.images[:24], 32))
    assert wrong.shape == (24, 9)
    assert not bool((wrong == labels[:, None]).any())
    ordered = clean.gather(1, wrong)
    assert bool((ordered[:, :-1] >= ordered[:, 1:]).all())

    start = torch.full((24, 3, 8, 8), 128, dtype=torch.uint8)
    places = torch.from_numpy(right.positions[:24])
    settings = AscentSettings(steps=15, batch_size=24, confidence=1e6)
    reached = {}
    for rank in (0, 8):
        found = ascend(
            victim, images, labels, square_mask(8), places, start, settings, draw,
            toward=wrong[:, rank],
        )  # fmt: skip
        pasted = paste(
            right.images[:24],
            found.patch.numpy(),
            np.ones((8, 8), np.bool_),
            right.positions[:24].astype(np.int32),
        )
        shown = torch.from_numpy(logits(digit_network, pasted, 32))
        reached[rank] = [shown.gather(1, wrong[:, [k]]).mean() for k in (0, 8)]
        # What wins is any wrong class.
        wins = shown.argmax(dim=1) != labels
        assert torch.equal(wins, found.margin > 0)
    assert reached[0][0] > reached[8][0] + 1.0
    assert reached[8][1] > reached[0][1] + 1.0


def test_the_cascade_attacks_what_resists_and_resumes_to_the_same(
    digit_network: DigitNetwork, right: Attacked, tmp_path: Path
) -> None:
    victim = Victim(network=digit_network, bit_widths=(3,))
    stages = cascade(variants_of(digit_network, 3))
    assert {stage.variant for stage in stages} == {"clipped", "shadow"}
    settings = AdaptiveSettings(size_px=6, steps=4, batch_size=32)
    whole = search(victim, right, settings, seed=1, progress=False)
    assert [result["stage"] for result in whole.stages] == [stage.name for stage in stages]
    resisting = len(right.images)
    for result in whole.stages:
        assert result["attacked"] == resisting
        resisting -= result["won"]
    assert resisting == int((~whole.won).sum())

    file = tmp_path / "search.npz"
    search(victim, right, settings, seed=1, resume_from=file, progress=False)
    again = search(victim, right, settings, seed=1, resume_from=file, progress=False)
    assert np.array_equal(again.patch, whole.patch)
    assert again.stages == whole.stages
    with pytest.raises(InputError, match="other settings"):
        search(victim, right, settings, seed=2, resume_from=file, progress=False)


def test_transferred_patches_are_tried_first(digit_network: DigitNetwork, right: Attacked) -> None:
    victim = Victim(network=digit_network, bit_widths=(32,))
    first = search(victim, right, SMALL, seed=1, progress=False)
    again = search(victim, right, SMALL, seed=9, transferred={"known": first.patch}, progress=False)
    assert again.stages[0]["stage"] == "known as it is"
    assert again.stages[0]["won"] == int(first.won.sum())
    assert bool((again.won >= first.won).all())


class Noisy(nn.Module):
    """Gaussian noise on the logits, drawn at every answer."""

    def __init__(self, network: DigitNetwork, strength: float) -> None:
        super().__init__()
        self.network = network
        self.strength = strength
        self.generator = torch.Generator().manual_seed(5)
        self.at = network.at

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels)
        return logits + self.strength * torch.randn(logits.shape, generator=self.generator)


def test_randomness_is_found(digit_network: DigitNetwork, right: Attacked) -> None:
    pixels = torch.from_numpy(right.images[:8]).float()
    still = found_random(digit_network, pixels, 32)
    assert (still["logits"], still["gradients"]) == (False, False)
    noisy = found_random(Noisy(digit_network, 1.0).eval(), pixels, 32)
    assert noisy["logits"]


def test_draws_are_raised_until_the_rate_stands_still(
    digit_network: DigitNetwork, right: Attacked
) -> None:
    victim = Victim(network=Noisy(digit_network, 2.0).eval(), bit_widths=(32,), noisy=True)
    settings = AdaptiveSettings(size_px=8, steps=4, most_draws=4, asr_points=1e-6)
    asked: list[int] = []

    def run(draws: int) -> Searched:
        asked.append(draws)
        return search(victim, right, settings, seed=1, draws=draws, progress=False)

    best, curve, enough = raise_draws(run, victim, right, settings, torch.Generator())
    assert asked == [point["draws"] for point in curve]
    assert asked in ([1, 2, 4], [1, 2])
    assert enough == (curve[-1]["asr"]["k"] == curve[-2]["asr"]["k"])
    assert curve[0]["asr"]["n"] == settings.scoring_draws * len(right.images)
    assert best.patch.shape == (len(right.images), 3, 8, 8)


def test_random_precision_draws_for_each_image(
    digit_network: DigitNetwork, held_out_digits: ImageSet
) -> None:
    victim = Victim(network=digit_network, bit_widths=(32, 2))
    images = held_out_digits.images[:200]
    apart: NDArray[np.bool_] = predict(digit_network, images, 32) != predict(
        digit_network, images, 2
    )
    assert apart.any()
    draw = torch.Generator().manual_seed(0)
    answers = np.stack([victim.predict(images, draw) for _ in range(12)])
    changed = (answers != answers[0]).any(axis=0)
    assert not changed[~apart].any()
    assert changed[apart].mean() > 0.9


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stepz": 3}, "valid keys are asr_points"),
        ({"steps": 0}, "at least 1"),
        ({"momentum": 1.0}, "at least 0 and below 1"),
        ({"placement": "moon"}, "centre"),
    ],
)
def test_settings_refuse_what_they_do_not_know(values: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_settings(AdaptiveSettings, values, "adaptive evaluation")
