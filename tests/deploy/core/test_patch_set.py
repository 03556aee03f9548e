from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.errors import InputError
from deploy.core.pasting import paste
from deploy.core.patch_origin import PatchOrigin
from deploy.core.patch_set import PatchSet, random_floor, read_patch_set, write_patch_set


def _patch_set(kind: str, count: int = 23, **changes: Any) -> PatchSet:
    rng = np.random.default_rng(2)
    mask = np.array([[True, True], [True, False]])
    patches = 1 if kind == "universal" else count
    settings: dict[str, Any] = {
        "name": "lavan-8x8",
        "kind": kind,
        "patch": rng.integers(0, 256, size=(patches, 3, 2, 2), dtype=np.uint8),
        "mask": mask,
        "positions": rng.integers(0, 7, size=(count, 2), dtype=np.int32),
        "image_indices": np.arange(count, dtype=np.int64) * 3,
        "target": 4,
        "origin": PatchOrigin(
            attack="lavan", source={"network": "abc", "bit_widths": [32]}, seed=1
        ),
    }
    return PatchSet(**settings | changes)


@pytest.mark.parametrize("kind", ["universal", "per-image"])
def test_what_is_written_comes_back(tmp_path: Path, kind: str, images: np.ndarray) -> None:
    patch_set = _patch_set(kind)
    path = tmp_path / "patches" / "lavan.npz"
    write_patch_set(path, patch_set)
    back = read_patch_set(path)
    for name in ("name", "kind", "target", "origin"):
        assert getattr(back, name) == getattr(patch_set, name)
    for name in ("patch", "mask", "positions", "image_indices"):
        np.testing.assert_array_equal(getattr(back, name), getattr(patch_set, name))
        assert getattr(back, name).dtype == getattr(patch_set, name).dtype
    np.testing.assert_array_equal(
        back.paste_on(images),
        paste(images, patch_set.patch, patch_set.mask, patch_set.positions),
    )
    again = tmp_path / "lavan.npz"
    write_patch_set(again, back)
    assert again.read_bytes() == path.read_bytes()
    assert again.with_suffix(".json").read_bytes() == path.with_suffix(".json").read_bytes()


def test_area() -> None:
    patch_set = _patch_set("universal")
    assert patch_set.area_px == 3
    assert patch_set.area_share(8, 8) == 3 / 64


def test_paste_on_wants_the_picked_images(images: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"images\[patch_set\.image_indices\]"):
        _patch_set("universal").paste_on(images[:5])
    far = _patch_set("universal", positions=np.full((23, 2), 7, np.int32))
    with pytest.raises(InputError, match=r"lavan-8x8: .*outside"):
        far.paste_on(images)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"kind": "both"},
        {"kind": "universal", "patch": np.zeros((23, 3, 2, 2), np.uint8)},
        {"patch": np.zeros((23, 3, 2, 2), np.float32)},
        {"patch": np.zeros((5, 3, 2, 2), np.uint8)},
        {"mask": np.zeros((2, 2), bool)},
        {"mask": np.ones((3, 2), bool)},
        {"positions": np.zeros((23, 2), np.int64)},
        {"positions": np.full((23, 2), -1, np.int32)},
        {"image_indices": np.zeros(23, np.int64)},
        {"image_indices": np.arange(22)},
        {"image_indices": np.arange(23) - 1},
        {"target": -1},
        {"target": True},
        {"target": 1.0},
        {"patch": [[1]]},
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        _patch_set(**{"kind": "per-image"} | changes)


@pytest.mark.parametrize("kind", ["universal", "per-image"])
def test_some_of_its_images(kind: str, images: np.ndarray) -> None:
    whole = _patch_set(kind)
    wanted = np.append(whole.image_indices[[1, 5, 20]], [10_000_000])
    part = whole.on_images(wanted)
    assert part.image_indices.tolist() == whole.image_indices[[1, 5, 20]].tolist()
    rows = [1, 5, 20]
    whole_pasted = whole.paste_on(images[: len(whole.image_indices)])
    assert np.array_equal(part.paste_on(images[rows]), whole_pasted[rows])
    with pytest.raises(InputError, match="none of its images is among the 1 chosen"):
        whole.on_images(np.array([10_000_000]))


def test_random_floor_has_the_same_geometry_and_other_bytes() -> None:
    patch_set = _patch_set("per-image")
    floor = random_floor(patch_set, np.random.default_rng(5))
    same = random_floor(patch_set, np.random.default_rng(5))
    np.testing.assert_array_equal(floor.patch, same.patch)
    assert floor.patch.shape == patch_set.patch.shape
    assert len({patch.tobytes() for patch in floor.patch}) == 23  # each image its own noise
    assert (floor.mask is patch_set.mask) and (floor.positions is patch_set.positions)
    assert (floor.kind, floor.target) == ("per-image", 4)
    assert floor.origin.more["floor_of"] == "lavan-8x8"
    large = replace(
        patch_set,
        kind="universal",
        patch=np.zeros((1, 3, 99, 99), np.uint8),
        mask=np.ones((99, 99), bool),
    )
    noise = random_floor(large, np.random.default_rng(5)).patch
    assert set(range(256)) == set(noise.ravel().tolist())
    assert abs(noise.mean() - 127.5) < 3  # 29,403 bytes: a standard error of 0.43


def _edit(path: Path, **changes: Any) -> None:
    sidecar = path.with_suffix(".json")
    meta = json.loads(sidecar.read_text()) | changes
    sidecar.write_text(json.dumps({key: value for key, value in meta.items() if value != "gone"}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 2}, "format version 2"),
        ({"format": "other"}, "does not describe"),
        ({"sha256": "0" * 64}, "do not belong together"),
        ({"kind": "universal"}, "a universal patch set"),
        ({"kind": ["universal"]}, "unknown"),
        ({"name": 3}, "name as text"),
        ({"target": "cat"}, "target"),
        ({"target": "gone"}, "lacks target"),
        ({"provenance": []}, "provenance"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = tmp_path / "lavan.npz"
    write_patch_set(path, _patch_set("per-image"))
    _edit(path, **changes)
    with pytest.raises(InputError, match=words):
        read_patch_set(path)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "lavan.npz"
    write_patch_set(path, _patch_set("per-image"))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(InputError, match="belong together"):
        read_patch_set(path)
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        read_patch_set(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"lavan\.json does not exist"):
        read_patch_set(path)
    with pytest.raises(InputError, match=r"\.npz file"):
        write_patch_set(tmp_path / "lavan.png", _patch_set("per-image"))
    nan = _patch_set("per-image", origin=PatchOrigin(more={"x": float("nan")}))
    with pytest.raises(InputError):
        write_patch_set(tmp_path / "nan.npz", nan)
