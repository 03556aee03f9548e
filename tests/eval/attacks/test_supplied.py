"""Patches of somebody else's: what is read, how it is placed, what it does to a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deploy.core.errors import InputError
from deploy.core.success import attack_success
from eval.attacks.lavan import Lavan, LavanSettings
from eval.attacks.predictions import predict
from eval.attacks.supplied.placing import PlacingSettings, placed_patch_sets
from eval.attacks.supplied.reading import read_supplied
from training.data import ImageSet
from training.prediction import SwitchableNetwork
from training.validated import read_settings

RNG = np.random.default_rng(5)
COLOURED = RNG.integers(1, 256, (3, 6, 8), dtype=np.uint8)


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "patches.npz"
    np.savez(path, **arrays)
    return path


def placed(path: Path, count: int = 40, size: int = 32, **settings: Any) -> list[Any]:
    return placed_patch_sets(
        read_supplied(path),
        PlacingSettings(**settings),
        np.arange(count),
        (size, size),
        classes=10,
        seed=3,
    )


def test_a_png_with_alpha_keeps_its_bytes_and_its_mask(tmp_path: Path) -> None:
    alpha = np.where(np.arange(8) < 5, 255, 100) * np.ones((6, 1))
    pixels = np.concatenate([COLOURED, alpha[None]]).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(pixels).save(tmp_path / "sticker.png")
    (made,) = placed(tmp_path / "sticker.png", placement="top-left")
    assert (made.name, made.kind, made.target) == ("sticker", "universal", None)
    assert made.mask.tolist() == [[True] * 5 + [False] * 3] * 6
    np.testing.assert_array_equal(made.patch[0][:, made.mask], COLOURED[:, made.mask])
    images = np.zeros((40, 3, 32, 32), np.uint8)
    assert (made.paste_on(images)[:, :, :6, :5] == COLOURED[:, :, :5]).all()
    assert made.origin.area == {"px": 30, "share": 30 / 1024}


def test_an_opaque_png_is_resized_where_asked(tmp_path: Path) -> None:
    Image.fromarray(COLOURED.transpose(1, 2, 0)).save(tmp_path / "plain.png")
    (made,) = placed(tmp_path / "plain.png", size_px=16, target=4)
    assert made.size_px == (12, 16)
    assert made.mask.all()
    assert made.target == 4


def test_a_canvas_is_cut_to_what_it_shows(tmp_path: Path) -> None:
    """The form of ImageNet-Patch: 10 patches in the middle of 224×224, float, with targets."""
    canvas = np.zeros((10, 3, 224, 224), np.float32)
    content = RNG.random((10, 3, 50, 50), dtype=np.float32)
    canvas[:, :, 87:137, 87:137] = content
    sets = placed(npz(tmp_path, patches=canvas, targets=np.arange(10)), size=224)
    assert [one.target for one in sets] == list(range(10))
    assert {one.name for one in sets} == {f"patches-{number}" for number in range(10)}
    for one, own in zip(sets, content, strict=True):
        assert one.size_px == (50, 50)
        assert one.area_share(224, 224) == 2500 / 224**2
        np.testing.assert_array_equal(one.patch[0], np.rint(own * 255.0).astype(np.uint8))
        np.testing.assert_array_equal(one.positions, sets[0].positions)


def test_a_black_frame_of_a_patch_smaller_than_the_image_is_kept(tmp_path: Path) -> None:
    framed = np.zeros((3, 8, 8), np.uint8)
    framed[:, 1:-1, 1:-1] = COLOURED[:, :6, :6]
    (made,) = placed(npz(tmp_path, patches=framed), placement="top-left")
    np.testing.assert_array_equal(made.patch[0], framed)
    assert made.mask.all()


@pytest.mark.parametrize("covered", [np.uint8(255), np.int64(1), np.float32(1), np.float32(255)])
def test_masks_of_0_and_255_and_of_floats_are_masks(tmp_path: Path, covered: Any) -> None:
    shown = np.arange(48).reshape(6, 8) % 3 == 0
    (made,) = placed(npz(tmp_path, patches=COLOURED, mask=shown * covered), placement="top-left")
    np.testing.assert_array_equal(made.mask, shown)


@pytest.mark.parametrize("value", [2, 0.5, 254, float("nan"), -1])
def test_other_masks_are_refused_with_the_values_that_they_have(
    tmp_path: Path, value: float
) -> None:
    mask = np.ones((6, 8), np.float32)
    mask[2, 2] = value
    with pytest.raises(InputError, match=rf"0 and 255; it has .*{value:g}"):
        read_supplied(npz(tmp_path, patches=COLOURED, mask=mask))


def test_affine_placement_turns_scales_and_shifts_each_image_in_its_own_way(tmp_path: Path) -> None:
    file = npz(tmp_path, patches=np.full((2, 3, 50, 50), 200, np.uint8))
    law: dict[str, Any] = {"rotation_degrees": 45.0, "scale_range": (0.5, 1.0), "translation": 0.2}
    first, second = placed(file, count=60, size=224, **law)
    assert first.mask.shape == (60, 72, 72)
    areas = first.mask.sum(axis=(1, 2))
    assert 0.24 * 2500 < areas.min() < 0.4 * 2500
    assert 0.8 * 2500 < areas.max() < 1.01 * 2500
    assert first.area_px == round(areas.mean())
    centres = first.positions + 36
    assert (np.abs(centres - 112) <= 0.2 * 224 + 1).all()
    assert np.ptp(centres, axis=0).min() > 60
    # A turned square is wider than its area's root; an upright one is not.
    widths = first.mask.any(axis=1).sum(axis=1)
    assert (widths >= np.sqrt(areas) - 1.5).all()
    assert (widths > 1.2 * np.sqrt(areas)).sum() > 10
    images = np.zeros((60, 3, 224, 224), np.uint8)
    shown = first.paste_on(images)
    assert set(np.unique(shown)) == {0, 200}
    assert (shown[:, 0] == 200).sum() == areas.sum()
    np.testing.assert_array_equal(first.mask, second.mask)
    np.testing.assert_array_equal(first.positions, second.positions)


def test_a_whole_turn_by_nothing_is_the_patch_itself(tmp_path: Path) -> None:
    file = npz(tmp_path, patches=COLOURED[:, :, :6])
    (upright,) = placed(file, placement="centre")
    (rendered,) = placed(file, placement="centre", scale_range=(1.0, 1.0 + 1e-7))
    images = RNG.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    np.testing.assert_array_equal(rendered.paste_on(images), upright.paste_on(images))


def test_a_supplied_patch_does_what_it_did_where_it_was_made(
    tmp_path: Path,
    digit_network: SwitchableNetwork,
    digits: ImageSet,
    held_out_digits: ImageSet,
) -> None:
    made = Lavan(LavanSettings(kind="universal", size_px=12, steps=60, target=3)).run(
        digit_network,
        digits.images,
        digits.labels,
        torch.Generator().manual_seed(0),
        tried_on=np.arange(len(held_out_digits)),
        progress=False,
    )
    file = npz(tmp_path, patches=made.patch, targets=np.array([3]))
    count = len(held_out_digits)
    rates = []
    laws: list[dict[str, Any]] = [{}, {"rotation_degrees": 15.0, "scale_range": (0.9, 1.1)}]
    for law in laws:
        (back,) = placed(file, count=count, placement="centre", **law)
        clean = predict(digit_network, held_out_digits.images, 32)
        shown = predict(digit_network, back.paste_on(held_out_digits.images), 32)
        rates.append(
            attack_success(clean, shown, held_out_digits.labels, back.target).share["value"]
        )
    own = predict(digit_network, made.paste_on(held_out_digits.images), 32)
    assert rates[0] == attack_success(clean, own, held_out_digits.labels, 3).share["value"]
    assert rates[0] > 0.5
    assert 0.2 < rates[1] <= rates[0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"patch": COLOURED}, "has arrays patch; expected patches"),
        ({"patches": COLOURED[0]}, "expected patches as k×3×h×w"),
        ({"patches": COLOURED.astype(np.int16)}, "uint8 0…255 or finite float"),
        ({"patches": COLOURED.astype(np.float32)}, r"float patches in 0…1"),
        ({"patches": COLOURED / 255.0, "targets": np.array([1, 2])}, "targets as 1 classes"),
        (
            {"patches": COLOURED, "mask": np.ones((8, 6), bool)},
            r"mask as 0 and 1 of shape \(6, 8\)",
        ),
        ({"patches": COLOURED, "mask": np.zeros((6, 8), bool)}, "covers no pixel"),
        ({"patches": COLOURED, "targets": np.array([10])}, "target 10 is not a class"),
    ],
)
def test_unfit_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        placed(npz(tmp_path, **arrays))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no patch file"):
        read_supplied(tmp_path / "none.png")
    broken = tmp_path / "broken.png"
    Image.fromarray(COLOURED.transpose(1, 2, 0)).save(broken)
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(InputError, match="not a readable PNG"):
        read_supplied(broken)
    (tmp_path / "patches.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"a \.png or \.npz file"):
        read_supplied(tmp_path / "patches.gz")
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, patches=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError):
        read_supplied(pickled)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rotation": 3}, r"unknown key 'rotation'.* valid keys are margin_px"),
        ({"rotation_degrees": 181}, "at most 180; got 181"),
        ({"scale_range": [1.0, 0.5]}, "low ≤ high"),
        ({"translation": 0.5}, "translation must be at least 0 and below 0.5"),
        ({"placement": "left"}, "one of random"),
        ({"size_px": 0}, "at least 1"),
    ],
)
def test_placing_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_settings(PlacingSettings, values, "supplied patch")


def test_a_shift_that_leaves_the_image_is_refused(tmp_path: Path) -> None:
    file = npz(tmp_path, patches=np.full((3, 20, 20), 9, np.uint8))
    with pytest.raises(InputError, match="leaves the image"):
        placed(file, translation=0.4)
