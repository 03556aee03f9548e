"""``package.module:name`` for a network, a defense, an attack and a data set."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qadtr
from deploy.core.errors import InputError
from eval.attacks import attack_from_settings
from qadtr.__main__ import main
from training.defenses import check_defense

SOURCE = '''
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from eval.attacks.base import PatchAttack
from eval.attacks.problem import Crafted
from eval.attacks.settings import AttackSettings
from training.defenses import Defense
from training.validated import validated


def build(classes):
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes))


def needs_two(one, two):
    return build(one)


@validated()
class NoiseSettings:
    strength: float = 8.0


class Noise(Defense):
    """Noise on every image, in turn at each bit-width."""

    settings_type = NoiseSettings

    def bit_width(self, step):
        return self.facts.bit_widths[step % len(self.facts.bit_widths)]

    def prepare(self, step, batch, network):
        return (batch.pixels + self.settings.strength).clamp(0.0, 255.0)


class Half(Defense):
    """No bit_width."""


class White(PatchAttack[AttackSettings]):
    """A white square."""

    name: ClassVar[str] = "white"
    settings_type = AttackSettings
    kind: ClassVar[Literal["per-image"]] = "per-image"

    def optimize(self, problem, stepped):
        for _ in range(self.settings.steps):
            stepped()
        return Crafted(patch=problem.start * 0.0 + 255.0)


class Nameless(White):
    name: ClassVar[str] = "lavan"


class Pairs:
    """A torch Dataset: grey 12×20 px, brighter where the class is."""

    def __init__(self, root, split):
        self.classes = ["left", "right"]
        rng = np.random.default_rng(len(split))
        self.items = []
        for number in range(80):
            image = rng.integers(0, 120, (12, 20)).astype(np.uint8)
            image[:, 10 * (number % 2) : 10 * (number % 2) + 10] += 100
            self.items.append((image, number % 2))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def broken(root, split):
    raise OSError("no disk")
'''
CONFIG = """
name = "own"
seed = 1
[data]
kind = "own_parts:Pairs"
augment = "none"
[network]
name = "resnet8"
bit_widths = [32, 4]
[training]
epochs = 2
batch_size = 24
[defense]
name = "own_parts:Noise"
strength = 4.0
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_parts.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "own.toml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_parts", None)


def test_all_four_by_config_and_command_line(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(here / "runs" / "own")
    assert main(["train", "own.toml", "--network", "own_parts:build"]) == 0
    told = qadtr.load(run)
    assert (told.defense, told.network_name) == ("own_parts:Noise", "own_parts:build")
    assert told.sidecar["config"]["defense"]["strength"] == 4.0
    assert told.sidecar["config"]["data"]["kind"] == "own_parts:Pairs"
    assert main(["export", run, "--bits", "4", "--images", "8"]) == 0
    words = ["--attack", "own_parts:White", "--size", "4", "--steps", "1", "--images", "10"]
    assert main(["patch", run, *words]) == 0
    capsys.readouterr()
    assert main(["eval", run, "--patches", f"{run}/patches", "--no-latency"]) == 0
    assert "white" in capsys.readouterr().out


def test_the_same_from_python(here: Path) -> None:
    images = [
        qadtr.ImageSet.from_folder(None, one, kind="own_parts:Pairs") for one in ("train", "test")
    ]
    assert [len(one) for one in images] == [72, 80]
    assert images[0].classes == ("left", "right")
    settings = {"network.name": "own_parts:build", "training.batch_size": 16}
    run = qadtr.train("own.toml", None, "runs/first", epochs=1, settings=settings, progress=False)
    assert run.defense == "own_parts:Noise"
    again = qadtr.train(
        run.load_network(), images, "runs/second", epochs=1, defense="own_parts:Noise",
        settings={"training.batch_size": 16, "data.augment": "none"}, progress=False,
    )  # fmt: skip
    patches = qadtr.make_patches(again, "own_parts:White", size=4, count=6, settings={"steps": 1})
    assert (patches.origin.attack, int(patches.patch.min())) == ("white", 255)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--network", "own_parts:absent"], "there is no network 'own_parts:absent'"),
        (["--network", "own_parts:needs_two"], "the network own_parts:needs_two failed: TypeError"),
        (["--network", "nowhere:build"], "there is no network 'nowhere:build': No module named"),
        (["--defense", "own_parts:White"], "own_parts:White is not a defense: expected a subclass"),
        (["--defense", "own_parts:Half"], "own_parts:Half is not a complete defense: it lacks"),
        (["--defense", "own_parts:Nothing"], "there is no defense 'own_parts:Nothing'"),
        (["--set", "defense.power=3"], "unknown key 'power'; valid keys are strength"),
        (["--set", "data.kind=own_parts:broken"], "own_parts:broken failed: OSError: no disk"),
        (["--set", "data.kind=own_parts:Missing"], "there is no data set 'own_parts:Missing'"),
        (["--set", "data.kind=pairs"], "must be one of cifar10, folder, digits, npz, or your own"),
    ],
)
def test_what_a_name_does_not_name_is_one_error(
    here: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [] if "--network" in words else ["--network", "own_parts:build"]
    assert main(["train", "own.toml", *known, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (here / "runs").exists()


def test_the_same_of_attacks_and_in_python(here: Path) -> None:
    for name, said in (
        ("own_parts:Noise", "is not an attack: expected a subclass of eval.attacks.base.Patch"),
        ("own_parts:Nameless", "needs a name of its own"),
        ("own_parts:None_", "there is no attack 'own_parts:None_'"),
        ("magic", "unknown attack 'magic'; known: gap, .*your own as package.module:name"),
    ):
        with pytest.raises(InputError, match=said):
            attack_from_settings(name, {})
    with pytest.raises(InputError, match="strength must be a number"):
        check_defense({"name": "own_parts:Noise", "strength": "much"})
