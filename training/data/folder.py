"""Any data set laid out as SPLIT/CLASS/IMAGE, read with Pillow."""

from __future__ import annotations

import hashlib
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from deploy.device.errors import InputError
from training.data.holdout import held_out
from training.data.image_set import ImageSet, image_set

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
HOLDOUT_SHARE = 0.1
HOLDOUT_PURPOSE = "qadtr folder holdout 1"
_FOLDERS = {"train": ("train",), "holdout": ("train",), "test": ("test", "val")}
# 16- and 32-bit grey files: Pillow would clip them at 255 without a word.
_DEEP_MODES = ("I", "F")

_log = logging.getLogger(__name__)


def has_split_folders(root: Path) -> bool:
    """Whether `root` has a `train`, `test` or `val` folder."""
    return any((root / name).is_dir() for names in _FOLDERS.values() for name in names)


def read_folder(
    root: Path, split: str, *, size_px: int | None = None, name: str | None = None
) -> ImageSet:
    """Read `ROOT/SPLIT/CLASS/IMAGE`.

    The hold-out is 10% of each class of `train/`, chosen by the path of the image in it, so that
    it is the same at every size. Images come in a fixed order that mixes the classes (by the hash
    of their path): any first part of them is a fair sample.

    Args:
        root: folder with `train/` and `test/` (`val/` is taken where there is no `test/`).
        split: "train" (without the hold-out), "holdout" or "test".
        size_px: side of the square that every image is brought to: its shorter side is resized to
            it (Pillow's BILINEAR, antialiased), then the centre is cut out. None: the images must
            all have one size already, and not a pixel is changed.
        name: name of the data set; the name of `root` if None.

    Returns:
        uint8 N×3×H×W RGB. Grey and palette files become RGB; an alpha channel is dropped.

    Raises:
        InputError: a folder is missing or empty, a file is no readable image, or the sizes differ
            and no `size_px` was given.
    """
    if size_px is not None and size_px < 1:
        raise InputError(f"Expected an image size of at least 1 px, got {size_px}.")
    folder = _split_folder(root, split)
    classes = _classes(root, folder)
    paths: list[Path] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        found = _images_of(folder / class_name)
        if not found:
            raise InputError(
                f"{folder / class_name}: no image for class {class_name!r}; expected files that "
                f"end in {', '.join(SUFFIXES)}."
            )
        paths += found
        labels += [label] * len(found)
    keys = [path.relative_to(folder).as_posix().encode() for path in paths]
    label_array = np.asarray(labels, np.int64)
    chosen = np.ones(len(paths), np.bool_)
    if split != "test":
        out = held_out(label_array, keys, share=HOLDOUT_SHARE, purpose=HOLDOUT_PURPOSE)
        chosen = out if split == "holdout" else ~out
    order = sorted(np.flatnonzero(chosen).tolist(), key=lambda i: hashlib.sha256(keys[i]).digest())
    _log.info("reading %d images of %s", len(order), folder)
    images = _read_all([paths[i] for i in order], size_px)
    title = name if name is not None else (root.resolve().name or "folder")
    return image_set(images, label_array[order], classes, name=title, split=split)


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


def _images_of(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _read_all(paths: list[Path], size_px: int | None) -> NDArray[np.uint8]:
    first = _read(paths[0], size_px)
    images = np.empty((len(paths), *first.shape), np.uint8)
    images[0] = first
    for i, path in enumerate(paths[1:], start=1):
        image = _read(path, size_px)
        if image.shape != first.shape:
            raise InputError(
                f"{path} has {image.shape[1]}×{image.shape[2]} px, but {paths[0]} has "
                f"{first.shape[1]}×{first.shape[2]} px (height×width). Give an image size "
                "to resize and cut all of them to."
            )
        images[i] = image
    return images


def _read(path: Path, size_px: int | None) -> NDArray[np.uint8]:
    """One image as uint8 3×H×W."""
    try:
        with Image.open(path) as opened:
            if opened.mode.startswith(_DEEP_MODES):
                raise InputError(
                    f"{path}: has more than 8 bits a channel (mode {opened.mode}); expected 8-bit "
                    "images. Convert it first."
                )
            image = opened.convert("RGB")
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,  # Pillow's own, for broken PNG chunks
        ValueError,
        struct.error,
        zlib.error,
    ) as error:
        raise InputError(f"{path}: not a readable image ({error}).") from error
    if size_px is not None:
        image = _square(image, size_px)
    return np.asarray(image, np.uint8).transpose(2, 0, 1)


def _square(image: Image.Image, size_px: int) -> Image.Image:
    width, height = image.size
    shorter = min(width, height)
    if shorter != size_px:
        # Rounded to the nearest pixel; the shorter side is exact.
        width = max(size_px, round(width * size_px / shorter))
        height = max(size_px, round(height * size_px / shorter))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size_px) // 2, (height - size_px) // 2
    return image.crop((left, top, left + size_px, top + size_px))
