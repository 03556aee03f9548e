"""Every planted fake is caught; the network under it is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deploy.core.errors import InputError
from deploy.core.npz import read_npz, write_npz
from eval.attacks.found import as_array
from eval.attacks.predictions import predict
from eval.measure.checks.attacked_network import AttackedNetwork, BatterySettings
from eval.measure.checks.battery import area, full_image, run_battery
from eval.measure.checks.catalogue import CATALOGUE
from eval.measure.checks.checks_record import CheckResult, Flags
from eval.measure.fakes import FAKES, planted
from tests.eval.conftest import DigitNetwork
from training.data import ImageSet
from training.prediction import SwitchableNetwork

SETTINGS = BatterySettings(images=48, size_px=12, steps=20, queries=150)

CAUGHT_BY = {
    "gradient-killer": {"gradient-reaches-patch", "zero-gradients", "single-step", "gradient-free"},
    "gradient-scrambler": {"gradient-free", "loss-surface", "transfer"},
    "logit-noise": {"randomness"},
    "softmax-saturator": {"logits", "zero-gradients"},
}
"""At least these; others may trip besides."""


def status_of(network: SwitchableNetwork, images: ImageSet, other: DigitNetwork) -> dict[str, str]:
    done: list[str] = []
    results = run_battery(
        network,
        32,
        images.images[:48],
        images.labels[:48],
        SETTINGS,
        source=other,
        undefended=other,
        done=done.append,
    )
    assert done == list(CATALOGUE)
    assert [result["name"] for result in results] == list(CATALOGUE)
    return {result["name"]: result["status"] for result in results}


def test_an_honest_network_trips_none(
    digit_network: DigitNetwork, other_digit_network: DigitNetwork, held_out_digits: ImageSet
) -> None:
    found = status_of(digit_network, held_out_digits, other_digit_network)
    assert [name for name, status in found.items() if status == "tripped"] == []
    assert list(found.values()).count("passed") >= 12
    # The attack goes round every planted fake of that network, as someone would who knows them.
    assert found["planted-fakes"] == "passed"


@pytest.mark.parametrize("name", sorted(FAKES))
def test_a_planted_fake_is_caught(
    name: str,
    digit_network: DigitNetwork,
    other_digit_network: DigitNetwork,
    held_out_digits: ImageSet,
) -> None:
    fake = planted(name, digit_network)
    if name != "logit-noise":  # the fake is only worth something if the answers stay
        images = held_out_digits.images[:48]
        assert np.array_equal(predict(fake, images, 32), predict(digit_network, images, 32))
    found = status_of(fake, held_out_digits, other_digit_network)
    assert {check for check, status in found.items() if status == "tripped"} >= CAUGHT_BY[name]


def test_an_interrupted_battery_goes_on_to_the_same_results(
    digit_network: DigitNetwork, held_out_digits: ImageSet, tmp_path: Path
) -> None:
    only = ("single-step", "doubled-steps", "area", "bytes")

    def run(stop_after: str = "", **resume: Any) -> list[CheckResult]:
        def done(name: str) -> None:
            if name == stop_after:
                raise KeyboardInterrupt

        images, labels = held_out_digits.images[:16], held_out_digits.labels[:16]
        settings = BatterySettings(images=16, size_px=12, steps=4)
        return run_battery(
            digit_network, 32, images, labels, settings, only=only, done=done, **resume
        )

    file = tmp_path / ".checks.unfinished.npz"
    resume: dict[str, Any] = {"resume_from": file, "identity": "one"}
    with pytest.raises(KeyboardInterrupt):
        run("area", **resume)
    arrays = read_npz(file)
    assert run(**resume) == run()
    # What was done is not done again: an answer in the file is taken as it is.
    said = arrays["results"].tobytes().decode().replace("at 4 steps", "AT 4 STEPS")
    write_npz(file, arrays | {"results": as_array(said)})
    assert "AT 4 STEPS" in {one["name"]: one for one in run(**resume)}["doubled-steps"]["measured"]
    with pytest.raises(InputError, match="remove it to start anew"):
        run(resume_from=file, identity="another")
    for name, cut in (("attacks", np.s_[:, :2]), ("won", np.s_[:, 1:]), ("patches", np.s_[1:])):
        write_npz(file, arrays | {name: np.ascontiguousarray(arrays[name][cut])})
        with pytest.raises(InputError, match="damaged; remove it to start anew"):
            run(**resume)


class Claims(AttackedNetwork):
    """An attack that wins the first of the images, as many as it is told for each size."""

    first: Mapping[int, int]

    def won(self, *, size_px: int | None = None, steps: int | None = None) -> Flags:
        won: Flags = np.arange(len(self.images)) < self.first[size_px or self.settings.size_px]
        return won


@pytest.mark.parametrize(
    ("won", "status"),
    [
        ((82, 85, 81), "undecided"),  # sampling noise
        ((40, 40, 40), "tripped"),
        ((70, 65, 60), "tripped"),  # from the first to the last alone
        ((40, 60, 80), "passed"),
        ((90, 90, 89), "passed"),
    ],
)
def test_the_area_trips_on_what_is_no_noise(
    won: tuple[int, int, int], status: str, digit_network: DigitNetwork, held_out_digits: ImageSet
) -> None:
    right = predict(digit_network, held_out_digits.images, 32) == held_out_digits.labels
    images, labels = held_out_digits.images[right][:90], held_out_digits.labels[right][:90]
    attacked = Claims(digit_network, 32, images, labels, SETTINGS)
    attacked.first = dict(zip((6, 12, 24), won, strict=True))
    assert area(attacked)["status"] == status


class LeftColumns(nn.Module):
    """Looks at the four leftmost columns alone: one class where they are bright, else the other."""

    @contextmanager
    def at(self, bits: int) -> Iterator[LeftColumns]:
        yield self

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        light = pixels[..., :4].mean(dim=(1, 2, 3)) / 128.0 - 1.0
        return 8.0 * torch.stack([light, -light], dim=1)


def test_a_full_image_is_as_wide_as_the_images() -> None:
    images = np.random.default_rng(0).integers(90, 120, (24, 3, 16, 48), dtype=np.uint8)
    labels = np.ones(24, dtype=np.int64)
    settings = BatterySettings(images=24, size_px=8, steps=20)
    found = full_image(AttackedNetwork(LeftColumns(), 32, images, labels, settings))
    assert (found["status"], found["figures"]["asr"]["value"]) == ("passed", 1.0)


def test_an_unknown_fake_is_refused(digit_network: DigitNetwork) -> None:
    with pytest.raises(InputError, match="gradient-killer"):
        planted("magic", digit_network)
