"""Which files of SPLIT/CLASS/IMAGE make up a split, in which order, with which labels."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.host import usable_cores
from deploy.core.text import printable
from training.data.holdout import held_out
from training.data.image_file import SUFFIXES, read_image

HOLDOUT_PURPOSE = "qadtr folder holdout 1"
_FOLDERS = {"train": ("train",), "holdout": ("train",), "test": ("test", "val")}
_AHEAD_PER_CORE = 4

_NUMBERED = re.compile("(.*?)([0-9]+)")
"""What numbers are counted in, and the number: "12", "class_3"."""

_log = logging.getLogger(__name__)
_say_once = cache(_log.warning)


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
            InputError: a file no longer exists.
        """
        digest = hashlib.sha256()
        for file in self.files:
            try:
                found = os.stat(self.folder / file)  # noqa: PTH116  not a Path for each
            except OSError as error:
                raise InputError(f"cannot read {self.folder / file}: {error}") from error
            digest.update(os.fsencode(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\n"))
        return digest.hexdigest()

    def decoded(self, size_px: int | None, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        """The images from number ``start`` on, uint8 3×H×W, in order, decoded on all cores.

        Raises:
            InputError: a file is not a readable image, or has another size than the first one.
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
                            "(height×width); give an image size, to which all of them are "
                            "resized and cropped"
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

    Classes are sorted by name as text, as torchvision's ``ImageFolder`` sorts them; a warning
    states where their names are numbers and the numeric order differs. Entries of a class folder
    that are not images (another ending, a folder) are counted in a warning, and so are images
    outside of the class folders; hidden files are not.

    Args:
        root: folder with `train/` and `test/` (`val/` is taken where there is no `test/`).
        split: "train" (without the hold-out), "holdout" or "test".
        name: name of the data set; the name of `root` if None.

    Raises:
        InputError: a folder is missing or empty, a class has a name that is not UTF-8, or the
            splits have different classes.
    """
    folder = _split_folder(root, split)
    classes = _classes(root, folder)
    _say_if_numbers(classes, folder)
    files: list[str] = []
    labels: list[int] = []
    passed_over: list[str] = []
    for label, class_name in enumerate(classes):
        found, others = _images_of(folder / class_name)
        passed_over += [f"{class_name}/{name}" for name in others]
        if not found:
            raise InputError(
                f"{folder / class_name}: no image for class {class_name!r}; expected files that "
                f"end in {', '.join(SUFFIXES)}"
            )
        files += [f"{class_name}/{file}" for file in found]
        labels += [label] * len(found)
    passed_over += _images_of(folder)[0]  # beside the class folders
    if passed_over:
        _say_passed_over(passed_over, folder)
    keys = [os.fsencode(file) for file in files]
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
        name=name if name is not None else printable(root.resolve().name or "folder"),
        split=split,
    )


def _split_folder(root: Path, split: str) -> Path:
    wanted = _FOLDERS[split]
    if not root.is_dir():
        raise InputError(
            f"data folder {root} does not exist; expected a folder with train/CLASS/IMAGE and "
            "test/CLASS/IMAGE"
        )
    for candidate in wanted:
        if (root / candidate).is_dir():
            return root / candidate
    found = ", ".join(sorted(p.name for p in root.iterdir())[:12]) or "nothing"
    raise InputError(
        f"{root}: no folder {' or '.join(wanted)}/ for the split {split!r}; found {found}"
    )


def _classes(root: Path, folder: Path) -> tuple[str, ...]:
    """Sorted class names; those of `train/` where it exists, so that labels agree over splits."""
    names = _subfolders(folder)
    for name in names:
        if printable(name) != name or not set("\t\n\r").isdisjoint(name):
            raise InputError(
                f"{folder}: the name of the class folder {name!a} is not UTF-8, or has "
                "characters that cannot be shown; rename it (convmv changes the encoding of "
                "names)"
            )
    train = root / "train"
    if train.is_dir() and train != folder:
        expected = _subfolders(train)
        if names != expected:
            raise InputError(
                f"{folder} and {train} do not have the same classes: only in {train.name}: "
                f"{sorted(set(expected) - set(names))[:8]}; only in {folder.name}: "
                f"{sorted(set(names) - set(expected))[:8]}"
            )
    if len(names) < 2:
        raise InputError(
            f"{folder}: expected a folder for each of at least two classes, got "
            f"{list(names) or 'none'}"
        )
    return names


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(
        sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )


def _images_of(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of images, and of other entries; as text, since a million `Path`s take a
    gigabyte."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    images = [name for name in names if name.lower().endswith(SUFFIXES)]
    return images, [name for name in names if not name.lower().endswith(SUFFIXES)]


def _say_passed_over(names: list[str], folder: Path) -> None:
    kinds = Counter(
        "folders" if (folder / name).is_dir() else Path(name).suffix.lower() or "without an ending"
        for name in names
    )
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(4))
    _say_once(
        f"{folder}: {len(names):,} entries are skipped ({counts}), such as "
        f"{printable(names[0])}; images must be in the class folder itself and end in "
        f"{', '.join(SUFFIXES)}"
    )


def _say_if_numbers(classes: tuple[str, ...], folder: Path) -> None:
    found = [_NUMBERED.fullmatch(name) for name in classes]
    numbers = [int(one[2]) for one in found if one is not None and one[1] == (found[0] or one)[1]]
    in_order = sorted(numbers)
    if len(numbers) == len(classes) and numbers != in_order:
        label = next(i for i, number in enumerate(numbers) if number != in_order[i])
        _say_once(
            f"{folder}: class folders named by numbers are sorted as text, as in torchvision, so "
            f"label {label} is class {classes[label]!r}; pad the names ('02') for numerical order"
        )
