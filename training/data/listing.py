"""Which files of SPLIT/CLASS/IMAGE make up a split, in which order, with which labels."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.host import usable_cores
from training.data.holdout import held_out
from training.data.image_file import SUFFIXES, read_image

HOLDOUT_PURPOSE = "qadtr folder holdout 1"
_FOLDERS = {"train": ("train",), "holdout": ("train",), "test": ("test", "val")}
_AHEAD_PER_CORE = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """The image files of one split, before any of them is opened.

    Attributes:
        folder: the split's folder.
        files: N paths ``CLASS/FILE`` in it, in the order of the data set.
        labels: int64 N, indices into `classes`.
        classes: class names.
        name: name of the data set.
        split: "train", "holdout" or "test".
    """

    folder: Path
    files: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    name: str
    split: str

    def digest(self) -> str:
        """SHA-256 (hex) of path, byte count and time of change of each file, in their order.

        Raises:
            InputError: a file has gone.
        """
        digest = hashlib.sha256()
        for file in self.files:
            try:
                found = os.stat(self.folder / file)  # noqa: PTH116  not a Path for each
            except OSError as error:
                raise InputError(f"{self.folder / file}: cannot be read ({error}).") from error
            digest.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def decoded(self, size_px: int | None, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        """The images from number ``start`` on, uint8 3×H×W, in order, decoded on all cores.

        Raises:
            InputError: a file is no readable image, or has another size than the first one.
        """
        first = read_image(self.folder / self.files[0], size_px).shape
        cores = usable_cores()
        coming: deque[Future[NDArray[np.uint8]]] = deque()
        with ThreadPoolExecutor(cores) as pool:
            rest = iter(self.files[start:])

            def ask(count: int) -> None:
                for file in islice(rest, count):
                    coming.append(pool.submit(read_image, self.folder / file, size_px))

            ask(cores * _AHEAD_PER_CORE)
            try:
                for file in self.files[start:]:
                    image = coming.popleft().result()
                    ask(1)
                    if image.shape != first:
                        raise InputError(
                            f"{self.folder / file} has {image.shape[1]}×{image.shape[2]} px, but "
                            f"{self.folder / self.files[0]} has {first[1]}×{first[2]} px "
                            "(height×width). Give an image size to resize and cut all of them to."
                        )
                    yield image
            finally:
                pool.shutdown(cancel_futures=True)


def has_split_folders(root: Path) -> bool:
    """Whether `root` has a `train`, `test` or `val` folder."""
    return any((root / name).is_dir() for names in _FOLDERS.values() for name in names)


def list_folder(root: Path, split: str, name: str | None = None) -> Listing:
    """The files of `ROOT/SPLIT/CLASS/IMAGE`, in a fixed order that mixes the classes (by the hash
    of the path): any first part of them is a fair sample.

    Args:
        root: folder with `train/` and `test/` (`val/` is taken where there is no `test/`).
        split: "train" (without the hold-out), "holdout" or "test".
        name: name of the data set; the name of `root` if None.

    Raises:
        InputError: a folder is missing or empty, or the splits have different classes.
    """
    folder = _split_folder(root, split)
    classes = _classes(root, folder)
    files: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        found = _images_of(folder / class_name)
        if not found:
            raise InputError(
                f"{folder / class_name}: no image for class {class_name!r}; expected files that "
                f"end in {', '.join(SUFFIXES)}."
            )
        files += [f"{class_name}/{file}" for file in found]
        labels += [label] * len(found)
    keys = [file.encode() for file in files]
    label_array = np.asarray(labels, np.int64)
    chosen = np.ones(len(files), np.bool_)
    if split != "test":
        out = held_out(label_array, keys, purpose=HOLDOUT_PURPOSE)
        chosen = out if split == "holdout" else ~out
    order = sorted(np.flatnonzero(chosen).tolist(), key=lambda i: hashlib.sha256(keys[i]).digest())
    return Listing(
        folder=folder,
        files=tuple(files[i] for i in order),
        labels=label_array[order],
        classes=classes,
        name=name if name is not None else (root.resolve().name or "folder"),
        split=split,
    )


def _split_folder(root: Path, split: str) -> Path:
    wanted = _FOLDERS[split]
    if not root.is_dir():
        raise InputError(
            f"Data folder {root} does not exist. Expected a folder with train/CLASS/IMAGE and "
            "test/CLASS/IMAGE."
        )
    for candidate in wanted:
        if (root / candidate).is_dir():
            return root / candidate
    found = ", ".join(sorted(p.name for p in root.iterdir())[:12]) or "nothing"
    raise InputError(
        f"{root}: no folder {' or '.join(wanted)}/ for the split {split!r}; found {found}."
    )


def _classes(root: Path, folder: Path) -> tuple[str, ...]:
    """Sorted class names; those of `train/` where it exists, so that labels agree over splits."""
    names = _subfolders(folder)
    train = root / "train"
    if train.is_dir() and train != folder:
        expected = _subfolders(train)
        if names != expected:
            raise InputError(
                f"{folder} and {train} do not have the same classes: "
                f"only in {train.name}: {sorted(set(expected) - set(names))[:8]}; "
                f"only in {folder.name}: {sorted(set(names) - set(expected))[:8]}."
            )
    if len(names) < 2:
        raise InputError(
            f"{folder}: expected a folder for each of at least two classes, "
            f"got {list(names) or 'none'}."
        )
    return names


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(
        sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )


def _images_of(folder: Path) -> list[str]:
    """Sorted names; as text, since a million `Path`s take a gigabyte."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
        )
