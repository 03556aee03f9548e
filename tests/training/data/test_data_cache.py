"""Decoded images on disk: the same set as in memory, whatever happens to process or files."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from deploy.core.errors import InputError
from training.data import ImageSet, cache, listing, load_images
from training.data.image_file import read_image

ROOT = Path(__file__).parents[3]
SIZE = 16
TRAIN = 36
"""Images of the split "train" of :func:`root`: 20 of each of two classes, two held out."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for split, n in (("train", 20), ("val", 5)):
        for name in ("cat", "dog"):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(n):
                pixels = generator.integers(0, 256, (20, 18, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded from now on."""
    files: list[Path] = []

    def counted(path: Path, size_px: int | None) -> np.ndarray:
        files.append(path)
        return read_image(path, size_px)

    monkeypatch.setattr(listing, "read_image", counted)
    return files


def read(root: Path, split: str = "train", *, size: int | None = SIZE) -> ImageSet:
    return load_images("folder", root, split, size=size, cache=root.parent / "cache")


def array(root: Path, split: str = "train") -> Path:
    return root.parent / "cache" / f"pictures-{split}-{SIZE}px.npy"


def assert_same(one: ImageSet, other: ImageSet) -> None:
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert (one.classes, one.name, one.split) == (other.classes, other.name, other.split)
    assert one.digest == other.digest


@pytest.mark.parametrize("split", ["train", "holdout", "test"])
@pytest.mark.parametrize("size", [SIZE, 24, None])
def test_it_is_the_set_that_is_decoded_into_memory(
    root: Path, split: str, size: int | None
) -> None:
    made = read(root, split, size=size)
    assert_same(made, load_images("folder", root, split, size=size))
    assert_same(read(root, split, size=size), made)


def test_images_are_mapped_and_read_only_and_a_slice_of_them_is_no_copy(
    root: Path, decoded: list[Path]
) -> None:
    read(root)
    del decoded[:]
    images = read(root).images
    assert decoded == []
    assert not images.flags.writeable
    mapped = images.base
    assert isinstance(mapped, np.memmap)
    assert Path(str(mapped.filename)) == array(root)
    assert np.shares_memory(images[5:9], images)


def test_numpy_reads_it_and_the_sidecar_says_what_it_is(root: Path) -> None:
    made = read(root)
    np.testing.assert_array_equal(np.load(array(root)), made.images)
    facts = json.loads(array(root).with_suffix(".json").read_text())
    assert facts["shape"] == [TRAIN, 3, SIZE, SIZE]
    assert facts["classes"] == ["cat", "dog"]
    assert facts["labels"] == made.labels.tolist()
    assert facts["digest"] == made.digest
    assert facts["files"]["count"] == TRAIN
    assert {path.name for path in array(root).parent.iterdir()} == {
        array(root).name,
        array(root).with_suffix(".json").name,
        f".{array(root).stem}.lock",
    }


# ------------------------------------------------------------------ other images


def repainted(root: Path) -> None:
    path = root / "train" / "cat" / "0.png"
    found = path.stat()
    shutil.copyfile(root / "train" / "dog" / "0.png", path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


def added(root: Path) -> None:
    shutil.copyfile(root / "train" / "dog" / "0.png", root / "train" / "dog" / "more.png")


def removed(root: Path) -> None:
    (root / "train" / "cat" / "3.png").unlink()


def renamed_class(root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "dog").rename(root / split / "wolf")


@pytest.mark.parametrize("change", [repainted, added, removed, renamed_class])
def test_a_cache_of_other_files_is_refused(root: Path, change: Callable[[Path], None]) -> None:
    read(root)
    before = array(root).read_bytes()
    change(root)
    with pytest.raises(InputError, match=r"from other images .* delete it .* another --cache DIR"):
        read(root)
    assert array(root).read_bytes() == before
    array(root).unlink()
    assert_same(read(root), load_images("folder", root, "train", size=SIZE))


def test_a_cache_of_another_size_is_refused(root: Path) -> None:
    read(root, size=8)
    for suffix in (".npy", ".json"):
        place = array(root).parent
        (place / f"pictures-train-8px{suffix}").rename(array(root).with_suffix(suffix))
    with pytest.raises(InputError, match=r"from other images .*size_px"):
        read(root)


# ------------------------------------------------------------------ a damaged cache


def later(path: Path) -> None:
    """A clock of the file system that is too coarse must not hide the change."""
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


def truncated(images: Path) -> None:
    images.write_bytes(images.read_bytes()[:-1])


def longer(images: Path) -> None:
    images.write_bytes(images.read_bytes() + b"\0")


def no_array(images: Path) -> None:
    images.write_bytes(b"PK\3\4" + bytes(500))


def empty(images: Path) -> None:
    images.write_bytes(b"")


def other_byte(images: Path) -> None:
    data = bytearray(images.read_bytes())
    data[-5] ^= 1
    images.write_bytes(data)
    later(images)


def other_shape(images: Path) -> None:
    np.save(images, np.load(images).reshape(TRAIN, 3, SIZE * 2, SIZE // 2))


def other_labels(images: Path) -> None:
    sidecar = images.with_suffix(".json")
    facts = json.loads(sidecar.read_text())
    facts["labels"][0] = 1 - facts["labels"][0]
    sidecar.write_text(json.dumps(facts))


def other_digest(images: Path) -> None:
    sidecar = images.with_suffix(".json")
    facts = json.loads(sidecar.read_text())
    facts["digest"] = "0" * 64
    sidecar.write_text(json.dumps(facts))


def no_json(images: Path) -> None:
    images.with_suffix(".json").write_text("{")


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        longer,
        no_array,
        empty,
        other_byte,
        other_shape,
        other_labels,
        other_digest,
        no_json,
    ],
)
def test_a_damaged_cache_is_made_again_with_one_line(
    root: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    right = load_images("folder", root, "train", size=SIZE)
    read(root)
    damage(array(root))
    with caplog.at_level(logging.WARNING):
        assert_same(read(root), right)
    (line,) = caplog.messages
    assert line.startswith("the cache is damaged and is created again: ")
    assert str(array(root).parent) in line
    caplog.clear()
    assert_same(read(root), right)
    assert caplog.messages == []


def test_a_copied_cache_is_read_whole_once_and_not_decoded(
    root: Path, decoded: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    made = read(root)
    later(array(root))
    del decoded[:]
    with caplog.at_level(logging.INFO):
        assert_same(read(root), made)
        assert_same(read(root), made)
    assert sum("reading all of it" in line for line in caplog.messages) == 1
    assert decoded == []


# ------------------------------------------------------------------ interrupted


@pytest.fixture
def broken_off(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache whose making ended behind image 10, as a kill would end it; returns the part."""
    monkeypatch.setattr(cache, "SECONDS_BETWEEN_STATES", 0.0)
    order = listing.list_folder(root, "train").files

    def breaking(path: Path, size_px: int | None) -> np.ndarray:
        if path == root / "train" / order[10]:
            raise KeyboardInterrupt
        return read_image(path, size_px)

    monkeypatch.setattr(listing, "read_image", breaking)
    with pytest.raises(KeyboardInterrupt):
        read(root)
    assert not array(root).exists()
    monkeypatch.setattr(listing, "read_image", read_image)
    return array(root).with_name(f".{array(root).stem}.partial.npy")


def test_it_goes_on_where_it_was_broken_off(
    root: Path, broken_off: Path, decoded: list[Path]
) -> None:
    assert broken_off.exists()
    made = read(root)
    # One more: the first image, which tells the shape.
    assert len(decoded) == TRAIN - 10 + 1
    done = {path.relative_to(root / "train").as_posix() for path in decoded}
    assert not done & set(listing.list_folder(root, "train").files[1:10])
    assert_same(made, load_images("folder", root, "train", size=SIZE))


@pytest.mark.parametrize("kind", ["byte", "length", "state", "other files"])
def test_a_damaged_part_is_not_gone_on_with(root: Path, broken_off: Path, kind: str) -> None:
    data = bytearray(broken_off.read_bytes())
    if kind == "byte":
        data[200] ^= 1
        broken_off.write_bytes(data)
    elif kind == "length":
        broken_off.write_bytes(data[:1000])
    elif kind == "state":
        broken_off.with_suffix(".json").write_text("[]")
    else:
        repainted(root)
    assert_same(read(root), load_images("folder", root, "train", size=SIZE))
    assert not broken_off.exists()


SCRIPT = r"""
import sys, time
from pathlib import Path
from training.data import cache, listing, load_images
from training.data.image_file import read_image
cache.SECONDS_BETWEEN_STATES = 0.0
def slow(path, size_px):
    print("decoding\n", end="", flush=True)
    time.sleep(0.02)
    return read_image(path, size_px)
listing.read_image = slow
root = Path(sys.argv[1])
print("digest", load_images("folder", root, "train", size=16, cache=root.parent / "cache").digest)
"""


class Started(NamedTuple):
    process: subprocess.Popen[str]

    def finish(self) -> tuple[int, str]:
        """How many images it decoded, and the digest."""
        out, errors = self.process.communicate(timeout=100)
        assert self.process.returncode == 0, errors
        lines = out.splitlines()
        (digest,) = [line.split()[1] for line in lines if line.startswith("digest ")]
        return lines.count("decoding"), digest


def started(root: Path) -> Started:
    return Started(
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(root)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


def test_of_two_processes_one_decodes_and_both_have_the_set(root: Path) -> None:
    both = [one.finish() for one in [started(root), started(root)]]
    right = load_images("folder", root, "train", size=SIZE).digest
    assert [digest for _, digest in both] == [right, right]
    # One more: the first image, which tells the shape.
    assert sorted(count for count, _ in both) == [0, TRAIN + 1]


def test_a_killed_process_leaves_a_part_and_no_lock(root: Path) -> None:
    first = started(root)
    part = array(root).with_name(f".{array(root).stem}.partial.json")
    deadline = time.monotonic() + 60
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    first.process.send_signal(signal.SIGKILL)
    first.process.communicate()
    assert part.exists()
    assert not array(root).exists()
    count, digest = started(root).finish()
    assert count < TRAIN + 1
    assert digest == load_images("folder", root, "train", size=SIZE).digest
    assert not part.exists()


# ------------------------------------------------------------------ where it cannot be


def test_a_disk_that_is_too_small_is_told_before_decoding(
    root: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[Path]
) -> None:
    usage = shutil.disk_usage(root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="GB free; choose another --cache DIR"):
        read(root)
    assert decoded == []


def test_a_file_in_the_place_of_the_folder(root: Path) -> None:
    (root.parent / "cache").write_text("not a folder")
    with pytest.raises(InputError, match="choose another --cache DIR"):
        read(root)


def test_a_broken_image_leaves_no_cache(root: Path) -> None:
    (root / "train" / "cat" / "5.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"5\.png is not a readable image"):
        read(root)
    assert not array(root).exists()


@pytest.mark.parametrize("kind", ["digits", "cifar10"])
def test_other_kinds_of_data_take_none(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match="--cache DIR"):
        load_images(kind, tmp_path, "train", cache=tmp_path)
