"""The published configs are valid and differ only where they must."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.core.errors import InputError
from tests.training.small_run import small_config
from training.config import TrainingConfig, load_config
from training.data import ImageSet
from training.defenses import check_defense, resolved
from training.networks import NETWORKS
from training.trainer import Trainer

FOLDER = Path(__file__).parents[2] / "configs"
PATHS = sorted(FOLDER.glob("*.toml"))
FAMILIES = (
    *(f"cifar10-{name}" for name in ("resnet8", "resnet20", "resnet56", "vgg11")),
    *(f"imagenet-{name}" for name in ("resnet18", "resnet50", "mobilenetv2")),
)
ABLATED = ("cifar10-resnet8", "cifar10-resnet20")
DEFENSES = {"": "qadtr", "-plain": "qat", "-pbat": "pbat", "-dwq": "dwq", "-triqdef": "triqdef"}
ABLATION = {
    "-dbwt": (False, True, False, False),
    "-aqapa": (True, False, False, False),
    "-aqapa-dbwt": (True, True, False, False),
    "-gir-noise": (True, True, True, False),
    "-gir-penalty": (True, True, False, True),
    "-full": (True, True, True, True),
}
SWITCHES = ("aqapa", "dbwt", "gir", "gir_penalty")
FULL_SEARCH, MASKED = "-pbat-full", "-masked"
ALONE = {f"-plain-{bits}bit": bits for bits in (8, 5, 4, 2)}
BASE = """
name = "x"
seed = 1
[data]
kind = "digits"
[network]
name = "resnet8"
bit_widths = [8, 4]
[training]
epochs = 1
batch_size = 32
[defense]
name = "qadtr"
sizes_px = [4]
"""
PATCH_SIZES = {"sizes_px", "personal_px", "size_px"}


def of(family: str, part: str) -> TrainingConfig:
    return load_config(FOLDER / f"{family}{part}.toml")


def beside_the_defense(config: TrainingConfig) -> tuple[object, ...]:
    return config.seed, config.data, config.training, config.network.name


def settings(config: TrainingConfig) -> Mapping[str, Any]:
    return resolved(config).defense


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_config_is_valid_and_named_like_its_file(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert config.network.name in NETWORKS
    check_defense(config.defense)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_config_writes_only_what_differs_from_what_it_extends(path: Path) -> None:
    table = tomllib.loads(path.read_text())
    if "extends" not in table:
        assert path.stem in ("cifar10-resnet8", "imagenet-resnet18")
        return
    below = load_config(path.parent / table.pop("extends")).as_dict()
    if table.get("defense", below["defense"]).get("name", "") not in ("", below["defense"]["name"]):
        del below["defense"]

    def repeated(above: Mapping[str, Any], below: Mapping[str, Any]) -> list[str]:
        same = [key for key, value in above.items() if key in below and value == below[key]]
        deeper = [key for key, value in above.items() if isinstance(value, dict) and key in below]
        return same + [name for key in deeper for name in repeated(above[key], below[key])]

    assert repeated(table, below) == []


def test_a_config_is_laid_over_the_one_that_it_extends(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.toml").write_text(BASE)
    middle = tmp_path / "sub" / "middle.toml"
    middle.write_text('extends = "../base.toml"\nseed = 2\n[network]\nbit_widths = [8]\n')
    top = tmp_path / "sub" / "top.toml"
    top.write_text('extends = "middle.toml"\n[training]\nepochs = 3\n[defense]\nmove = 0.5\n')
    config = load_config(top, {"training.epochs": 4})
    assert (config.seed, config.network.bit_widths) == (2, (8,))
    assert (config.training.epochs, config.training.batch_size) == (4.0, 32)
    assert config.defense == {"name": "qadtr", "sizes_px": [4], "move": 0.5}
    assert "extends" not in config.as_dict()
    for defense, resolved_to in (
        ('name = "pbat"', {"name": "pbat"}),
        ('name = "qadtr"', {"name": "qadtr", "sizes_px": [4]}),
    ):
        top.write_text(f'extends = "middle.toml"\n[defense]\n{defense}\n')
        assert load_config(top).defense == resolved_to


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ('"b.toml"', r"circle: .*a\.toml → .*b\.toml → .*a\.toml"),
        ('"none.toml"', r"there is no config .*none\.toml, which .*a\.toml extends"),
        ('"bad.toml"', r"bad\.toml, which .*a\.toml extends, cannot be read as TOML"),
        ("3", "extends must be the path of a config; got 3"),
    ],
)
def test_what_a_config_cannot_extend(tmp_path: Path, extends: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(f"extends = {extends}\n")
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    (tmp_path / "bad.toml").write_text("x = [")
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "a.toml")


@pytest.mark.parametrize(("share", "least"), [(0.125, 12), (0.5, 3), (0.375, 4), (1.0, 2)])
def test_a_batch_too_small_for_two_universal_patches_is_refused(
    small_digits: ImageSet, share: float, least: int
) -> None:
    def config(batch_size: int, **defense: object) -> TrainingConfig:
        own = {"name": "qadtr", "sizes_px": [4], "personal_px": 4, "personal_share": 0.0}
        return small_config(
            defense={**own, "universal_share": share, **defense},
            training={"epochs": 1.0, "batch_size": batch_size},
        )

    run = Trainer(config(least), small_digits)
    run.one_step()
    for small in range(2, least):
        message = rf"training\.batch_size must be at least {least}, .* got {small}$"
        with pytest.raises(InputError, match=message):
            resolved(config(small))
        resolved(config(small, aqapa=False))
        resolved(config(small, universal_share=0.0))


@pytest.mark.parametrize(
    ("defense", "name"), [("pbat", "share"), ("triqdef", "share"), ("qadtr", "personal_share")]
)
def test_a_share_of_no_image_is_refused(defense: str, name: str) -> None:
    def config(share: float) -> TrainingConfig:
        return small_config(defense={"name": defense, name: share})

    resolved(config(0.02))
    with pytest.raises(
        InputError, match=rf"defense\.{name} is 0\.01, which is less than one image"
    ):
        resolved(config(0.01))


def test_no_config_is_outside_the_families_that_are_held_here() -> None:
    expected = {family + part for family in FAMILIES for part in (*DEFENSES, "-source")}
    of_ablated = (*ABLATION, *ALONE, FULL_SEARCH, MASKED)
    expected |= {family + part for family in ABLATED for part in of_ablated}
    assert {path.stem for path in PATHS} == expected


@pytest.mark.parametrize("family", ABLATED)
def test_full_search_and_masks_are_the_one_difference(family: str) -> None:
    pbat, full = of(family, "-pbat"), of(family, FULL_SEARCH)
    assert settings(full) == {**settings(pbat), "location": "full"}
    assert beside_the_defense(full) == beside_the_defense(pbat)
    plain, masked = of(family, "-plain"), of(family, MASKED)
    assert dataclasses.replace(masked.data, masks=0.0) == plain.data
    assert masked.data.masks == 0.75
    assert (masked.training, masked.defense) == (plain.training, plain.defense)


@pytest.mark.parametrize("family", FAMILIES)
def test_defenses_differ_in_the_defense_alone(family: str) -> None:
    plain = of(family, "-plain")
    for part, defense in DEFENSES.items():
        config = of(family, part)
        assert config.defense["name"] == defense
        assert beside_the_defense(config) == beside_the_defense(plain)
        if defense == "dwq":
            # It has a set of bit-widths of its own.
            assert config.network.bit_widths == check_defense(config.defense).bits
        else:
            assert config.network.bit_widths == plain.network.bit_widths
    source = of(family, "-source")
    assert source.seed != plain.seed
    assert source.defense["name"] == "qat"
    assert source.network.bit_widths == (32,)
    assert (source.data, source.training) == (plain.data, plain.training)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_defense_has_the_same_settings_for_every_network_but_the_patches_size(
    family: str,
) -> None:
    for part in DEFENSES:
        own, first = settings(of(family, part)), settings(of(FAMILIES[0], part))
        differing = {key for key in own if own[key] != first[key]}
        assert differing <= (PATCH_SIZES if family.startswith("imagenet") else set())


@pytest.mark.parametrize("family", ABLATED)
def test_the_rows_of_the_ablation_differ_in_the_switches_alone(family: str) -> None:
    default = of(family, "")
    rows = set()
    for part, switches in ABLATION.items():
        config = of(family, part)
        assert beside_the_defense(config) == beside_the_defense(default)
        assert config.network == default.network
        assert tuple(config.defense[name] for name in SWITCHES) == switches
        others = {k: v for k, v in settings(config).items() if k not in SWITCHES}
        assert others == {k: v for k, v in settings(default).items() if k not in SWITCHES}
        rows.add(switches)
    assert len(rows) == len(ABLATION)


@pytest.mark.parametrize("family", ABLATED)
def test_plain_quantization_of_one_bit_width_differs_in_the_bit_widths_alone(family: str) -> None:
    plain = of(family, "-plain")
    for part, bits in ALONE.items():
        config = of(family, part)
        assert beside_the_defense(config) == beside_the_defense(plain)
        assert config.defense == plain.defense
        assert config.network.bit_widths == (bits,)


def test_the_row_with_dbwt_alone_trains_what_plain_quantization_trains(
    small_digits: ImageSet,
) -> None:
    weights = []
    for table in ({"name": "qat"}, dict(of("cifar10-resnet8", "-dbwt").defense)):
        config = small_config(defense=table)
        run = Trainer(config, small_digits)
        for _ in range(3):
            run.one_step()
        weights.append([p.detach().clone() for p in run.parameters.values()])
    for one, other in zip(*weights, strict=True):
        assert one.equal(other)
