"""CIFAR-10 from the official files, whole and broken."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.core.errors import InputError
from training.data import ImageSet, load_images
from training.data.cifar10 import CLASSES

PER_BATCH = 40  # 4 of each class: 200 training images, 20 of each class


def batch(seed: int) -> dict[bytes, object]:
    rng = np.random.default_rng(seed)
    return {
        b"batch_label": b"a batch",
        b"labels": [i % 10 for i in range(PER_BATCH)],
        b"data": rng.integers(0, 256, (PER_BATCH, 3072), np.uint8),
        b"filenames": [b"name.png"] * PER_BATCH,
    }


def write_official(root: Path) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i in range(1, 6):
        (folder / f"data_batch_{i}").write_bytes(pickle.dumps(batch(i), protocol=4))
    (folder / "test_batch").write_bytes(pickle.dumps(batch(0), protocol=4))
    meta = {b"num_vis": 3072, b"label_names": [name.encode() for name in CLASSES]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=4))
    return folder


def write_archive(root: Path, folder: Path) -> Path:
    archive = root / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")
    return archive


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_official(tmp_path)
    return tmp_path


def as_set(images: ImageSet) -> set[bytes]:
    return {image.tobytes() for image in images.images}


def test_images_are_channel_first_and_complete(root: Path) -> None:
    test = load_images("cifar10", root, "test")
    rows = batch(0)[b"data"]
    assert isinstance(rows, np.ndarray)
    # The official rows hold the red plane, then the green, then the blue, each row by row.
    np.testing.assert_array_equal(test.images[3, 1], rows[3, 1024:2048].reshape(32, 32))
    assert test.images.dtype == np.uint8
    assert test.labels.dtype == np.int64
    np.testing.assert_array_equal(test.labels, np.arange(PER_BATCH) % 10)
    assert test.classes == CLASSES
    assert (test.name, test.split, len(test)) == ("cifar10", "test", PER_BATCH)


def test_the_holdout_is_a_tenth_of_each_class_and_disjoint(root: Path) -> None:
    train, holdout = (load_images("cifar10", root, s) for s in ("train", "holdout"))
    assert np.bincount(train.labels).tolist() == [18] * 10
    assert np.bincount(holdout.labels).tolist() == [2] * 10
    assert not as_set(train) & as_set(holdout)
    everything = {row.tobytes() for i in range(1, 6) for row in np.asarray(batch(i)[b"data"])}
    assert as_set(train) | as_set(holdout) == everything
    assert train.digest != holdout.digest


def test_the_holdout_does_not_depend_on_the_order_of_the_files(root: Path) -> None:
    before = as_set(load_images("cifar10", root, "holdout"))
    folder = root / "cifar-10-batches-py"
    one, two = folder / "data_batch_1", folder / "data_batch_2"
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)
    assert as_set(load_images("cifar10", root, "holdout")) == before


def test_the_digest_names_the_bytes(root: Path) -> None:
    first = load_images("cifar10", root, "test")
    assert load_images("cifar10", root, "test").digest == first.digest
    changed = batch(0)
    np.asarray(changed[b"data"])[0, 0] ^= 1
    (root / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps(changed, protocol=4))
    assert load_images("cifar10", root, "test").digest != first.digest


@pytest.mark.parametrize("split", ["train", "holdout", "test"])
def test_the_archive_gives_the_same_images_and_extracts_nothing(tmp_path: Path, split: str) -> None:
    folder = write_official(tmp_path / "a")
    (tmp_path / "b").mkdir()
    archive = write_archive(tmp_path / "b", folder)
    expected = load_images("cifar10", tmp_path / "a", split).digest
    assert load_images("cifar10", tmp_path / "b", split).digest == expected
    assert load_images("cifar10", archive, split).digest == expected
    assert load_images("cifar10", folder, split).digest == expected
    assert list((tmp_path / "b").iterdir()) == [archive]


def test_split_folders_of_cifar10_are_read_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            place = tmp_path / split / name
            place.mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    images = load_images("cifar10", tmp_path, "test")
    assert images.classes == CLASSES
    assert len(images) == 20
    (tmp_path / "test" / "truck").rename(tmp_path / "test" / "van")
    (tmp_path / "train" / "truck").rename(tmp_path / "train" / "van")
    with pytest.raises(InputError, match="expected the ten classes of CIFAR-10"):
        load_images("cifar10", tmp_path, "test")


# ------------------------------------------------------------------ broken input


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist.*qadtr data cifar10"):
        load_images("cifar10", tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match="needs a folder"):
        load_images("cifar10", None, "train")


def test_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"no CIFAR-10 in .*found notes\.txt"):
        load_images("cifar10", tmp_path, "train")


def test_missing_batch(root: Path) -> None:
    (root / "cifar-10-batches-py/data_batch_4").unlink()
    with pytest.raises(InputError, match="data_batch_4 missing"):
        load_images("cifar10", root, "train")
    assert len(load_images("cifar10", root, "test")) == PER_BATCH


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_truncated_batch(root: Path, keep: float) -> None:
    path = root / "cifar-10-batches-py/data_batch_2"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=r"data_batch_2: not a readable pickle.*truncated"):
        load_images("cifar10", root, "train")


def test_malicious_batch(root: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    code = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    (root / "cifar-10-batches-py/data_batch_1").write_bytes(code)
    with pytest.raises(InputError, match=r"data_batch_1: refused.*os\.system"):
        load_images("cifar10", root, "train")
    assert not ran.exists()


def test_batches_is_a_file_and_batch_is_a_folder(tmp_path: Path) -> None:
    write_official(tmp_path)
    batch_1 = tmp_path / "cifar-10-batches-py/data_batch_1"
    batch_1.unlink()
    batch_1.mkdir()
    with pytest.raises(InputError, match=r"cannot read .*data_batch_1"):
        load_images("cifar10", tmp_path, "train")


GOOD = batch(1)
ROWS = np.asarray(GOOD[b"data"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": ROWS[:, :3071]}, r"N×3072.*\(40, 3071\)"),
        ({b"data": ROWS.reshape(-1, 3, 32, 32)}, "N×3072"),
        ({b"data": ROWS.astype(np.int32)}, "uint8"),
        ({b"data": ROWS.tolist()}, "got list"),
        ({b"data": ROWS[:-1]}, "39 images but 40 labels"),
        ({b"data": None}, "expected the keys"),
        ({b"labels": [10] * PER_BATCH}, "integers 0…9"),
        ({b"labels": [-1] * PER_BATCH}, "integers 0…9"),
        ({b"labels": [True] * PER_BATCH}, "integers 0…9"),
        ({b"labels": "cat"}, "integers 0…9"),
        ({b"data": ROWS[:0], b"labels": []}, "expected images, found none"),
    ],
    ids=lambda value: next(iter(value)).decode() if isinstance(value, dict) else None,
)
def test_wrong_content(root: Path, change: dict[bytes, object], message: str) -> None:
    path = root / "cifar-10-batches-py/data_batch_5"
    path.write_bytes(pickle.dumps(GOOD | change, protocol=4))
    with pytest.raises(InputError, match=r"data_batch_5: .*" + message):
        load_images("cifar10", root, "train")


def test_other_classes(root: Path) -> None:
    meta = {b"label_names": [name.encode() for name in reversed(CLASSES)]}
    (root / "cifar-10-batches-py/batches.meta").write_bytes(pickle.dumps(meta, protocol=4))
    with pytest.raises(InputError, match="ten classes of CIFAR-10"):
        load_images("cifar10", root, "test")


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.97])
def test_truncated_archive(tmp_path: Path, keep: float) -> None:
    folder = write_official(tmp_path / "a")
    (tmp_path / "b").mkdir()
    archive = write_archive(tmp_path / "b", folder)
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz: not a readable"):
        load_images("cifar10", tmp_path / "b", "train")


def test_one_changed_byte_in_the_archive_is_found(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "a")
    archive = write_archive(tmp_path, folder)
    data = bytearray(archive.read_bytes())
    data[-6] ^= 1  # the checksum itself: everything before it still unpacks
    archive.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"not a readable .*BadGzipFile"):
        load_images("cifar10", tmp_path, "test")


def test_archive_with_unsafe_paths_and_links_touches_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(pickle.dumps(GOOD, protocol=4))
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        link.type = tarfile.SYMTYPE
        link.linkname = str(secret)
        tar.addfile(link)
        for name in ("../test_batch", f"{tmp_path}/escaped", "other/test_batch"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(InputError, match="test_batch missing"):
        load_images("cifar10", root, "test")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["root", "secret"]


def test_archive_that_claims_a_huge_member(tmp_path: Path) -> None:
    member = tarfile.TarInfo("cifar-10-batches-py/test_batch")
    member.size = 1 << 40
    content = gzip.compress(member.tobuf() + b"\0" * 1024)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(content)
    with pytest.raises(InputError, match="claims"):
        load_images("cifar10", tmp_path, "test")


@pytest.mark.parametrize(
    ("kind", "split", "size", "message"),
    [
        ("cifar100", "test", None, "unknown kind of data 'cifar100'; known: cifar10, folder"),
        ("cifar10", "val", None, "unknown split 'val'; available: train, holdout, test"),
        ("cifar10", "test", 64, "32×32"),
    ],
)
def test_unknown_choices(root: Path, kind: str, split: str, size: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_images(kind, root, split, size=size)
