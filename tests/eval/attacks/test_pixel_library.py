"""The library's pixel attacks on a small real network."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.core.errors import InputError
from eval.attacks.pixel.library import AtBitWidth, art_classifier, load_library, perturbed
from eval.attacks.pixel.pixel_settings import PIXEL_ATTACKS, PixelSettings
from eval.attacks.predictions import predict
from training.data import ImageSet
from training.prediction import SwitchableNetwork

COUNT = 40
QUICK: dict[str, dict[str, Any]] = {
    "fgsm": {},
    "pgd": {"steps": 8},
    "mi-fgsm": {"steps": 8},
    "cw": {"steps": 6},
    "autoattack-deepfool": {"steps": 8, "queries": 40},
}


def attacked(
    network: SwitchableNetwork, images: ImageSet, bits: int = 32, **settings: Any
) -> NDArray[np.uint8]:
    return perturbed(
        network,
        bits,
        images.images[:COUNT],
        images.labels[:COUNT],
        PixelSettings(batch_size=COUNT, **settings),
        classes=10,
        seed=0,
    )


def right(network: SwitchableNetwork, shown: NDArray[np.uint8], labels: Any, bits: int = 32) -> int:
    return int((predict(network, shown, bits) == labels[:COUNT]).sum())


@pytest.mark.parametrize("attack", PIXEL_ATTACKS)
def test_fools_the_network_inside_its_ball(
    attack: str, digit_network: SwitchableNetwork, held_out_digits: ImageSet
) -> None:
    images, labels = held_out_digits.images[:COUNT], held_out_digits.labels
    found = attacked(digit_network, held_out_digits, attack=attack, epsilon=24.0, **QUICK[attack])
    assert found.shape == images.shape
    assert right(digit_network, found, labels) < right(digit_network, images, labels) - 10
    if attack != "cw":
        assert np.abs(found.astype(int) - images.astype(int)).max() == 24


def test_many_steps_beat_one_and_both_widths_are_attacked(
    digit_network: SwitchableNetwork, held_out_digits: ImageSet
) -> None:
    for bits in (32, 4):
        left = [
            right(
                digit_network,
                attacked(digit_network, held_out_digits, bits, attack=name, epsilon=16.0, **more),
                held_out_digits.labels,
                bits,
            )
            for name, more in (("fgsm", {}), ("pgd", {"steps": 12}))
        ]
        assert left[1] <= left[0]


def test_the_library_draws_from_the_seed_alone(
    digit_network: SwitchableNetwork, held_out_digits: ImageSet
) -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    first = attacked(digit_network, held_out_digits, attack="pgd", steps=3, restarts=2)
    again = attacked(digit_network, held_out_digits, attack="pgd", steps=3, restarts=2)
    assert np.array_equal(first, again)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]


class Bare(nn.Module):
    """The digit network's float mode in torch's own layers, nothing of ours in it."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for layer in network.convolutions:
            layers += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = network.head

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.head(self.layers((pixels * 255.0 - 128.0) / 64.0).mean(dim=(2, 3)))
        return found


def test_autoattack_agrees_on_our_wrapper_and_on_the_bare_module(
    digit_network: SwitchableNetwork, held_out_digits: ImageSet
) -> None:
    load_library()
    from art.attacks.evasion import AutoAttack, AutoProjectedGradientDescent, SquareAttack

    images = held_out_digits.images[:COUNT].astype(np.float32) / 255.0
    labels = held_out_digits.labels[:COUNT]
    accuracies, made = [], []
    for module in (AtBitWidth(digit_network, 32), Bare(digit_network).eval()):
        np.random.seed(3)
        classifier = art_classifier(module, images.shape[1:], 10, digit_network)
        ball = {"norm": np.inf, "eps": 12.0 / 255.0}
        parts = [
            AutoProjectedGradientDescent(
                classifier, eps_step=6.0 / 255.0, max_iter=8, loss_type=loss, verbose=False, **ball
            )
            for loss in ("cross_entropy", "difference_logits_ratio")
        ]
        parts.append(SquareAttack(classifier, max_iter=40, verbose=False, **ball))
        attack = AutoAttack(classifier, eps_step=6.0 / 255.0, attacks=parts, **ball)
        found = attack.generate(x=images, y=labels)
        made.append(found)
        accuracies.append(float((classifier.predict(found).argmax(1) == labels).mean()))
    assert accuracies[0] == accuracies[1]
    assert 0.0 < accuracies[0] < 0.9
    np.testing.assert_array_equal(made[0], made[1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attack": "patch"}, "attack must be one of fgsm, pgd, mi-fgsm, cw, autoattack-deepfool"),
        ({"attack": "autoattack"}, "autoattack-deepfool; got 'autoattack'"),
        ({"epsilon": 0.0}, "epsilon must be at least 1"),
        ({"epsilon": 8.5}, "epsilon must be a multiple of 1"),
        ({"step_size": 9.0}, "step_size must be at most epsilon, 8; got 9"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PixelSettings(**values)


def test_the_network_is_left_as_it_was(
    digit_network: SwitchableNetwork, held_out_digits: ImageSet
) -> None:
    before = {key: value.clone() for key, value in digit_network.state_dict().items()}
    attacked(digit_network, held_out_digits, attack="fgsm")
    assert all(torch.equal(value, before[key]) for key, value in digit_network.state_dict().items())
    assert not digit_network.training


def test_loading_the_library_leaves_the_program_s_logging_alone() -> None:
    program = """
import io, logging
stream = io.StringIO()
class Closing(logging.StreamHandler):
    def close(self):
        self.stream.close()
        super().close()
logging.getLogger().addHandler(Closing(stream))
from eval.attacks.pixel.library import load_library
load_library()
load_library()
logging.getLogger().warning("still heard")
assert "still heard" in stream.getvalue()
assert logging.config.dictConfig({"version": 1, "disable_existing_loggers": False}) is None
assert stream.closed, "ART's own call would have done this"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
