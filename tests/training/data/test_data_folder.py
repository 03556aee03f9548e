"""SPLIT/CLASS/IMAGE folders, whole and broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.core.errors import InputError
from training.data import load_images

RNG = np.random.default_rng(0)


def pixels(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, n in (("train", 20), ("test", 5)):
        for name in ("cat", "dog"):
            place = tmp_path / split / name
            place.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(pixels(12, 10)).save(place / f"{i}.png")
    return tmp_path


def test_pixels_come_back_unchanged(root: Path) -> None:
    images = load_images("folder", root, "test")
    assert images.images.shape == (10, 3, 12, 10)
    assert images.classes == ("cat", "dog")
    for label, name in enumerate(images.classes):
        got = {image.tobytes() for image in images.images[images.labels == label]}
        files = (root / "test" / name).iterdir()
        want = {np.asarray(Image.open(f)).transpose(2, 0, 1).tobytes() for f in files}
        assert got == want


def test_the_holdout_is_stratified_disjoint_and_the_same_at_every_size(root: Path) -> None:
    train, holdout = (load_images("folder", root, s) for s in ("train", "holdout"))
    assert np.bincount(train.labels).tolist() == [18, 18]
    assert np.bincount(holdout.labels).tolist() == [2, 2]
    seen = {image.tobytes() for image in train.images}
    assert not seen & {image.tobytes() for image in holdout.images}
    cut = load_images("folder", root, "holdout", size=10)
    np.testing.assert_array_equal(cut.images, holdout.images[:, :, 1:11])


def test_the_order_mixes_the_classes(root: Path) -> None:
    labels = load_images("folder", root, "train").labels
    assert 0 < np.count_nonzero(np.diff(labels)) > 5
    np.testing.assert_array_equal(labels, load_images("folder", root, "train").labels)


def test_val_stands_in_for_test(root: Path) -> None:
    digest = load_images("folder", root, "test").digest
    (root / "test").rename(root / "val")
    assert load_images("folder", root, "test").digest == digest


@pytest.mark.parametrize("shape", [(12, 10), (7, 31), (200, 100), (8, 8)])
def test_resize_and_centre_cut(root: Path, shape: tuple[int, int]) -> None:
    for split in ("train", "test"):
        Image.fromarray(pixels(*shape)).save(root / split / "cat" / "0.png")
    assert load_images("folder", root, "test", size=8).images.shape == (10, 3, 8, 8)


def test_the_cut_is_in_the_middle(root: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = (255, 0, 128)
    Image.fromarray(wide).save(root / "test" / "cat" / "0.png")
    images = load_images("folder", root, "test", size=8).images
    expected = np.array([255, 0, 128], np.uint8).repeat(64).reshape(3, 8, 8)
    assert any(np.array_equal(image, expected) for image in images)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_other_modes_become_rgb(root: Path, mode: str) -> None:
    for path in (root / "test").glob("*/*"):
        path.unlink()
    grey = np.full((12, 10, 3), 255, np.uint8)
    suffix = "jpg" if mode == "CMYK" else "png"
    for name in ("cat", "dog"):
        Image.fromarray(grey).convert(mode).save(root / "test" / name / f"x.{suffix}")
    images = load_images("folder", root, "test").images
    assert images.shape == (2, 3, 12, 10)
    assert images.min() >= 254


# ------------------------------------------------------------------ broken input


def test_missing_and_empty_folders(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_images("folder", tmp_path / "nowhere", "train")
    for path in (root / "test" / "dog").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no image for class 'dog'"):
        load_images("folder", root, "test")


def test_no_such_split(root: Path) -> None:
    (root / "test").rename(root / "tset")
    with pytest.raises(InputError, match=r"no folder test or val/.*found train, tset"):
        load_images("folder", root, "test")


def test_different_classes_in_the_splits(root: Path) -> None:
    (root / "test" / "dog").rename(root / "test" / "wolf")
    with pytest.raises(InputError, match=r"only in train: \['dog'\].*only in test: \['wolf'\]"):
        load_images("folder", root, "test")


def test_one_class_is_not_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match="at least two classes"):
        load_images("folder", tmp_path, "train")


def test_different_sizes_without_a_size(root: Path) -> None:
    Image.fromarray(pixels(9, 10)).save(root / "test" / "dog" / "3.png")
    with pytest.raises(InputError, match=r"9×10 px.*12×10 px|12×10 px.*9×10 px"):
        load_images("folder", root, "test")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tif"])
def test_truncated_and_foreign_files(root: Path, suffix: str) -> None:
    path = root / "test" / "cat" / f"broken.{suffix}"
    Image.fromarray(pixels(12, 10)).save(path)
    data = path.read_bytes()
    for content in (data[: len(data) // 2], data[:10], b"", b"no image at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"broken\.{suffix}: not a readable image"):
            load_images("folder", root, "test")


def test_a_folder_that_looks_like_an_image(root: Path) -> None:
    (root / "test" / "cat" / "nested.png").mkdir()
    with pytest.raises(InputError, match=r"nested\.png: not a readable image"):
        load_images("folder", root, "test")


def test_16_bit_images_are_refused_rather_than_clipped(root: Path) -> None:
    deep = np.full((12, 10), 40_000, np.uint16)
    Image.fromarray(deep).save(root / "test" / "cat" / "deep.png")
    with pytest.raises(InputError, match="more than 8 bits"):
        load_images("folder", root, "test")


def test_hidden_and_other_files_are_passed_over(root: Path) -> None:
    digest = load_images("folder", root, "test").digest
    (root / "test" / "cat" / "._0.png").write_bytes(b"resource fork")
    (root / "test" / "cat" / "notes.txt").write_text("not an image")
    (root / "test" / ".cache").mkdir()
    assert load_images("folder", root, "test").digest == digest


def test_a_class_too_small_to_hold_out_from(root: Path) -> None:
    for path in sorted((root / "train" / "dog").iterdir())[1:]:
        path.unlink()
    with pytest.raises(InputError, match="at least 2"):
        load_images("folder", root, "train")


def test_impossible_size(root: Path) -> None:
    with pytest.raises(InputError, match="at least 1 px, got 0"):
        load_images("folder", root, "test", size=0)
