"""CIFAR-10 as it is distributed: `cifar-10-batches-py/`, or its `.tar.gz` read in place.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html. The numbers of images are taken from the files: copies
with fewer images than the official 50,000 + 10,000 are read as they are.
"""

from __future__ import annotations

import gzip
import shlex
import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from training.data.array_unpickler import arrays_from_pickle
from training.data.folder import read_folder
from training.data.holdout import held_out
from training.data.image_set import ImageSet, image_set
from training.data.listing import has_split_folders

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIZE_PX = 32
FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
HOLDOUT_PURPOSE = "qadtr cifar10 holdout 1"
_TRAIN_FILES = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST_FILES = ("test_batch",)
_META_FILE = "batches.meta"
# An official batch has 31 MB. The limit keeps a crafted archive from filling the memory.
_LARGEST_MEMBER_BYTES = 1 << 28
_ROW_BYTES = 3 * SIZE_PX * SIZE_PX


def read_cifar10(root: Path, split: str) -> ImageSet:
    """Read one split of CIFAR-10: uint8 N×3×32×32 RGB, labels in the official order of classes.

    Args:
        root: a folder that holds `cifar-10-batches-py/`, or `cifar-10-python.tar.gz`, or
            `train/CLASS/IMAGE` and `test/CLASS/IMAGE` with the ten class names (looked for in
            this order); or the batches folder or the archive itself.
        split: "train" (without the hold-out), "holdout" (10% of the official training set, the
            same images from the batches and from the archive, in any order), or "test".

    Raises:
        InputError: none of the above exists, or a file is missing or truncated, has a wrong shape,
            or holds anything but arrays.
    """
    files = _TEST_FILES if split == "test" else _TRAIN_FILES
    place = _place(root)
    if place is None:
        return _from_folders(root, split)
    read = _files_of_folder if place.is_dir() else _files_of_archive
    contents = read(place, (*files, _META_FILE))
    missing = [name for name in files if name not in contents]
    if missing:
        raise InputError(
            f"{place}: {', '.join(missing)} missing; expected {', '.join(files)}, found "
            f"{', '.join(sorted(contents)) or 'none of them'}; get the official archive with: "
            f"{_fetch(place)}"
        )
    if _META_FILE in contents:
        _check_classes(contents[_META_FILE], f"{place}/{_META_FILE}")
    parts = [_batch(contents[name], f"{place}/{name}") for name in files]
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    if split != "test":
        out = held_out(labels, [i.tobytes() for i in images], purpose=HOLDOUT_PURPOSE)
        keep = out if split == "holdout" else ~out
        images, labels = images[keep], labels[keep]
    return image_set(images, labels, CLASSES, name="cifar10", split=split)


def is_cifar10(root: Path) -> bool:
    """Whether a folder, or archive, that exists is CIFAR-10 as it is distributed."""
    names = (FOLDER, ARCHIVE, *_TRAIN_FILES, *_TEST_FILES)
    return root.name == ARCHIVE or any((root / name).exists() for name in names)


def _fetch(root: Path) -> str:
    """The command that puts the official archive into a folder."""
    folder = root.parent if root.name == FOLDER or root.is_file() else root
    return shlex.join(["qadtr", "data", "cifar10", str(folder)])


def _place(root: Path) -> Path | None:
    """The batches folder or the archive of `root`; None where it holds split folders instead."""
    if not root.exists():
        raise InputError(
            f"data folder {root} does not exist; expected a folder with {FOLDER}/, {ARCHIVE}, or "
            f"train/CLASS/IMAGE and test/CLASS/IMAGE; download the archive with: {_fetch(root)}"
        )
    if root.is_file() or any((root / name).is_file() for name in _TRAIN_FILES + _TEST_FILES):
        return root
    if (root / FOLDER).is_dir():
        return root / FOLDER
    if (root / ARCHIVE).is_file():
        return root / ARCHIVE
    if has_split_folders(root):
        return None
    found = ", ".join(sorted(p.name for p in root.iterdir())[:12]) or "nothing"
    raise InputError(
        f"no CIFAR-10 in {root}: expected {FOLDER}/, {ARCHIVE}, or train/CLASS/IMAGE and "
        f"test/CLASS/IMAGE, found {found}; download the archive with: {_fetch(root)}"
    )


def _files_of_folder(folder: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    contents = {}
    for name in wanted:
        path = folder / name
        if not path.exists():
            continue
        try:
            contents[name] = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error}") from error
    return contents


def _files_of_archive(archive: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Read members into memory. Nothing is extracted, so no path of the archive is ever used."""
    contents: dict[str, bytes] = {}
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                if folder != FOLDER or name not in wanted or not member.isfile():
                    continue
                if member.size > _LARGEST_MEMBER_BYTES:
                    raise InputError(
                        f"{archive}: {member.name} claims {member.size:,} bytes, expected at "
                        f"most {_LARGEST_MEMBER_BYTES:,}"
                    )
                file = tar.extractfile(member)
                assert file is not None  # a regular file
                contents[name] = file.read()
            # To the very end, where gzip stores the checksum of everything before it.
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"{archive}: not a readable .tar.gz ({type(error).__name__}: {error}); it has "
            f"{archive.stat().st_size:,} bytes and is probably truncated; delete it and get it "
            f"again with: {_fetch(archive.parent)}"
        ) from error
    return contents


def _check_classes(data: bytes, source: str) -> None:
    names = arrays_from_pickle(data, source=source).get("label_names")
    if not isinstance(names, list):
        raise InputError(f"{source}: expected a list `label_names`, got {type(names).__name__}")
    classes = tuple(n.decode("latin1") if isinstance(n, bytes) else n for n in names)
    if classes != CLASSES:
        raise InputError(
            f"{source}: expected the ten classes of CIFAR-10 ({', '.join(CLASSES)}), got "
            f'{classes}; for other data use SPLIT/CLASS/IMAGE folders (kind "folder")'
        )


def _batch(data: bytes, source: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content = arrays_from_pickle(data, source=source)
    rows, labels = content.get("data"), content.get("labels")
    if rows is None or labels is None:
        raise InputError(
            f"{source}: expected the keys `data` and `labels`, got "
            f"{', '.join(sorted(content)) or 'none'}"
        )
    if (
        not isinstance(rows, np.ndarray)
        or rows.dtype != np.uint8
        or rows.ndim != 2
        or rows.shape[1] != _ROW_BYTES
    ):
        what = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise InputError(
            f"{source}: expected `data` as a uint8 array N×{_ROW_BYTES} (N images of 3×32×32), "
            f"got {what}"
        )
    values = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if not isinstance(values, list) or not all(
        type(value) is int and 0 <= value < len(CLASSES) for value in values
    ):
        raise InputError(f"{source}: expected `labels` as a list of integers 0…9")
    if len(values) != len(rows):
        raise InputError(f"{source}: {len(rows)} images but {len(values)} labels")
    if not values:
        raise InputError(f"{source}: expected images, found none")
    return rows.reshape(-1, 3, SIZE_PX, SIZE_PX), np.asarray(values, np.int64)


def _from_folders(root: Path, split: str) -> ImageSet:
    images = read_folder(root, split, name="cifar10")
    if images.classes != CLASSES or images.images.shape[2:] != (SIZE_PX, SIZE_PX):
        height, width = images.images.shape[2:]
        raise InputError(
            f"{root}: expected the ten classes of CIFAR-10 ({', '.join(CLASSES)}) at 32×32 px, "
            f"got {', '.join(images.classes[:12])} at {height}×{width} px; for other data choose "
            'the kind "folder"'
        )
    return images
