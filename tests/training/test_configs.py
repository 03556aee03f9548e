"""The published configs are valid and differ only where they must."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import TrainingConfig, load_config
from training.defenses import check_defense
from training.networks import NETWORKS

FOLDER = Path(__file__).parents[2] / "configs"
PATHS = sorted(FOLDER.glob("*.toml"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_config_is_valid_and_named_like_its_file(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert config.network.name in NETWORKS
    check_defense(config.defense)


@pytest.mark.parametrize("network", ["resnet8", "resnet20"])
def test_defenses_differ_in_the_defense_alone(network: str) -> None:
    def of(part: str) -> TrainingConfig:
        return load_config(FOLDER / f"cifar10-{network}{part}.toml")

    plain = of("-plain")
    names = {"-plain": "qat", "": "qadtr", "-pbat": "pbat", "-dwq": "dwq", "-triqdef": "triqdef"}
    for part, defense in names.items():
        config = of(part)
        assert config.defense["name"] == defense
        same = (config.seed, config.data, config.training, config.network.name)
        assert same == (plain.seed, plain.data, plain.training, plain.network.name)
        if defense == "dwq":
            # It has a set of bit-widths of its own.
            bits = check_defense(config.defense).bits
            assert config.network.bit_widths == bits
        else:
            assert config.network.bit_widths == plain.network.bit_widths
    source = of("-source")
    assert source.seed != plain.seed
    assert source.defense["name"] == "qat"
    assert source.network.bit_widths == (32,)
    assert source.training == plain.training
