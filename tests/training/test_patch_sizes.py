"""Patch sizes as pixels or shares, and training patches that do not fit the images."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from deploy.core.errors import InputError
from training.config import load_config
from training.defenses import resolved
from training.patch_sizes import in_pixels, side_px

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize(
    ("size", "image_size", "side"),
    [
        (8, (32, 32), 8),
        ("5%", (224, 224), 50),
        ("2.9%", (224, 224), 38),
        ("100%", (20, 30), 24),
        ("0.01%", (32, 32), 1),
    ],
)
def test_the_side_of_a_share(size: int | str, image_size: tuple[int, int], side: int) -> None:
    found = side_px(size, image_size)
    assert found == side
    if isinstance(size, str) and found > 1:
        share = 100 * found * found / (image_size[0] * image_size[1])
        assert math.isclose(share, float(size[:-1]), rel_tol=0.06)


@pytest.mark.parametrize("size", ["5", "0%", "101%", "-1%", "five%", "%", "nan%"])
def test_what_is_no_size(size: str) -> None:
    with pytest.raises(InputError, match="expected a patch size in pixels, such as 8, or as a"):
        side_px(size, (32, 32))


def test_settings_of_sizes_alone_are_taken() -> None:
    given = {"size_px": "25%", "sizes_px": ["25%", 4], "margin_px": 2, "shape": "square"}
    assert in_pixels(given, (16, 16)) == {
        "size_px": 8,
        "sizes_px": [8, 4],
        "margin_px": 2,
        "shape": "square",
    }


def test_a_config_for_larger_images_is_refused_and_shares_fit_any() -> None:
    path = CONFIGS / "imagenet-resnet18.toml"
    assert resolved(load_config(path)).defense["sizes_px"] == [38, 50]
    with pytest.raises(InputError) as refused:
        resolved(load_config(path, {"data.size": 64}))
    text = str(refused.value)
    assert "defense.sizes_px 50 px, defense.personal_px 50 px: too large for images of 64" in text
    assert "at most 32 px" in text
    shares = {"defense.sizes_px": ["2.9%", "5%"], "defense.personal_px": "5%"}
    fitting = resolved(load_config(path, {"data.size": 64, **shares}))
    assert fitting.defense["sizes_px"] == [11, 14]
    assert fitting.defense["personal_px"] == 14


@pytest.mark.parametrize("defense", ["pbat", "triqdef"])
def test_the_rivals_are_held_to_the_same(defense: str) -> None:
    path = CONFIGS / f"imagenet-resnet18-{defense}.toml"
    with pytest.raises(InputError, match=r"defense\.size_px 50 px: too large"):
        resolved(load_config(path, {"data.size": 64}))


def test_what_is_never_shown_need_not_fit() -> None:
    path = CONFIGS / "imagenet-resnet18.toml"
    off = {"data.size": 64, "defense.aqapa": False}
    assert resolved(load_config(path, off)).defense["sizes_px"] == [38, 50]


def test_images_with_a_size_of_their_own_are_asked_for_it() -> None:
    path = CONFIGS / "cifar10-resnet8.toml"
    arrays = load_config(path, {"data.kind": "npz", "defense.personal_px": 20})
    assert resolved(arrays).defense["personal_px"] == 20
    with pytest.raises(InputError, match="too large for images of 28×32"):
        resolved(arrays, (28, 32))
