"""SPLIT/CLASS/IMAGE folders, whole and broken."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tracemalloc
import warnings
from contextlib import suppress
from pathlib import Path
from random import Random
from zlib import compress, crc32

import numpy as np
import pytest
from PIL import Image, ImageOps

from deploy.core.errors import InputError
from training.data import load_images
from training.data.image_file import read_image

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
        with pytest.raises(InputError, match=rf"broken\.{suffix} is not a readable image"):
            load_images("folder", root, "test")


def test_a_folder_that_looks_like_an_image(root: Path) -> None:
    (root / "test" / "cat" / "nested.png").mkdir()
    with pytest.raises(InputError, match=r"nested\.png is not a readable image"):
        load_images("folder", root, "test")


def test_16_bit_images_are_refused_rather_than_clipped(root: Path) -> None:
    deep = np.full((12, 10), 40_000, np.uint16)
    Image.fromarray(deep).save(root / "test" / "cat" / "deep.png")
    with pytest.raises(InputError, match="more than 8 bits"):
        load_images("folder", root, "test")


def deep_png(colour_type: int, channels: int) -> bytes:
    """A 16-bit PNG of 12×10 px; Pillow writes none in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    rows = (b"\0" + bytes(10 * channels * 2)) * 12
    header = struct.pack(">IIBBBBB", 10, 12, 16, colour_type, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rgb.png", deep_png(2, 3)),
        ("rgba.png", deep_png(6, 4)),
        ("grey-alpha.png", deep_png(4, 2)),
        ("rgb.ppm", b"P6 10 12 65535 " + bytes(10 * 12 * 6)),
        ("rgb10.ppm", b"P6 10 12 1023 " + bytes(10 * 12 * 6)),
    ],
)
def test_16_bit_colour_is_refused_too(root: Path, name: str, content: bytes) -> None:
    (root / "test" / "cat" / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} has more than 8 bits"):
        load_images("folder", root, "test")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_exif_says(root: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = pixels(12, 10)
    for split in ("train", "test"):
        for path in (root / split / "cat").iterdir():
            Image.fromarray(stored).save(path, exif=exif)
    images = load_images("folder", root, "test", size=10)
    shown = ImageOps.exif_transpose(Image.open(root / "test" / "cat" / "0.png"))
    width, height = shown.size
    middle = np.asarray(shown)[(height - 10) // 2 :, (width - 10) // 2 :][:10, :10]
    turned = images.images[images.labels == 0]
    assert (turned == middle.transpose(2, 0, 1)).all()
    if orientation == 6:  # a quarter turn, clockwise
        np.testing.assert_array_equal(np.asarray(shown), np.rot90(stored, -1))


def grey_png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (width, height)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (grey_png(1, 65_000), r"1×65,000 px, and with the shorter side at 96 .* leave it out"),
        (grey_png(65_000, 1), r"65,000×1 px, and with the shorter side"),
        (grey_png(9_000, 9_000), r"9,000×9,000 px, but at most 67,108,864 in total are read"),
    ],
)
def test_an_image_that_would_take_the_memory_is_refused_by_its_header(
    root: Path, content: bytes, match: str
) -> None:
    path = root / "test" / "cat" / "large.png"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match=match):
        read_image(path, 96)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_what_pillow_raises_for_a_damaged_file_is_one_error_that_names_it(root: Path) -> None:
    path = root / "test" / "cat" / "0.tif"
    Image.fromarray(pixels(12, 10)).save(path)
    whole = path.read_bytes()
    rng = Random(0)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        with suppress(InputError), warnings.catch_warnings(action="ignore"):
            assert read_image(path, 8).shape == (3, 8, 8)


def test_what_is_skipped_in_class_folders_is_counted_and_said_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cat = root / "test" / "cat"
    (cat / "2021").mkdir()
    for number in range(3):
        (cat / f"{number}.png").rename(cat / "2021" / f"{number}.png")
        (cat / f"{number}.avif").write_bytes(b"")
    (cat / "3.png").rename(cat / "3.JFIF")
    (cat / "4.png").rename(cat / "4")
    (root / "test" / "beside.png").write_bytes(b"")
    (root / "test" / ".hidden.png").write_bytes(b"")
    for _ in range(2):
        images = load_images("folder", root, "test")
    assert (images.labels == 0).sum() == 1
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "6 entries are skipped (3 .avif, 1 folders, 1 without an ending, 1 .png)" in said


def test_numbered_classes_in_another_order_than_their_numbers_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("0", "1", "2", "10"):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.fromarray(pixels(12, 10)).save(tmp_path / "test" / name / "0.png")
    assert load_images("folder", tmp_path, "test").classes == ("0", "1", "10", "2")
    assert "label 2 is class '10'" in caplog.text
    caplog.clear()
    shutil.rmtree(tmp_path / "test" / "10")
    assert load_images("folder", tmp_path, "test").classes == ("0", "1", "2")
    assert "label" not in caplog.text


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\xe2\x80\xaeb", b"a\xc2\x9bb", b"a\nb"])
def test_class_names_that_cannot_be_shown_are_refused_and_file_names_are_taken(
    root: Path, name: bytes
) -> None:
    digest = load_images("folder", root, "test").digest
    odd = os.path.join(os.fsencode(root), b"test", b"cat", name + b".png")  # noqa: PTH118
    Image.fromarray(pixels(12, 10)).save(odd.decode(errors="surrogateescape"))
    assert load_images("folder", root, "test").digest != digest
    for split in (b"train", b"test"):
        place = os.path.join(os.fsencode(root), split)  # noqa: PTH118
        os.rename(os.path.join(place, b"dog"), os.path.join(place, name))  # noqa: PTH104, PTH118
    with pytest.raises(InputError, match=r"class folder '.*' is not UTF-8"):
        load_images("folder", root, "test")


def test_the_size_that_images_are_brought_to_is_said(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    load_images("folder", root, "test", size=8)
    assert "at 8×8 px (data.size: the shorter side is resized to it" in caplog.text


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


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["0", "1", "2", "10"], "label 2 is class '10'"),
        (["class_1", "class_2", "class_10"], "label 1 is class 'class_10'"),
        (["n5", "n40", "n123"], "label 0 is class 'n123'"),
        (["00", "01", "10"], None),
        (["a1", "b10", "c2"], None),  # no counting of one thing
        (["cat", "dog2", "dog10"], None),
    ],
)
def test_numbers_in_the_names_of_classes_that_are_not_in_their_order(
    names: list[str], said: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in names:
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.fromarray(pixels(12, 10)).save(tmp_path / "test" / name / "0.png")
    load_images("folder", tmp_path, "test", size=8)
    warnings_ = [r.getMessage() for r in caplog.records if "named by numbers" in r.getMessage()]
    assert len(warnings_) == (said is not None)
    assert said is None or said in warnings_[0]
