"""Data sets: each is read as an `ImageSet` of uint8 N×3×H×W, whatever its file format."""

from __future__ import annotations

from pathlib import Path

from deploy.core.errors import InputError
from training.data.arrays import read_arrays
from training.data.cifar10 import SIZE_PX, is_cifar10, read_cifar10
from training.data.digits import DEFAULT_PX, read_digits
from training.data.folder import read_folder
from training.data.image_set import SPLITS, Images, ImageSet, Split, split_of
from training.data.listing import has_split_folders
from training.named import called, is_foreign, unknown

SIZED: tuple[str, ...] = ("cifar10", "folder", "digits")
"""Kinds of data whose images have the size that a config's ``data.size`` says."""
KINDS: tuple[str, ...] = (*SIZED, "npz")


def kind_of(root: Path | None) -> str:
    """The kind of data that a folder holds, by the names in it; without a folder "digits".

    Raises:
        InputError: there is no such folder, or it holds no known kind of data.
    """
    if root is None:
        return "digits"
    if not root.exists():
        raise InputError(f"there is no data folder {root}")
    if is_cifar10(root):
        return "cifar10"
    if any((root / f"{split}.npz").is_file() for split in ("test", "train")):
        return "npz"
    if has_split_folders(root):
        return "folder"
    raise InputError(
        f"{root} has no images of a known kind; expected cifar-10-batches-py or its archive, "
        "train.npz and test.npz, or SPLIT/CLASS/IMAGE; give the kind with --kind "
        f"{'|'.join(KINDS)}"
    )


def load_images(
    kind: str,
    root: Path | None,
    split: str,
    *,
    size: int | None = None,
    cache: Path | None = None,
) -> ImageSet:
    """Read one split of a data set.

    "train" leaves out the hold-out, a fixed tenth of each class of the training set ("holdout"),
    on which settings are chosen; "test" is for final tables only.

    Args:
        kind: "cifar10", "folder" (SPLIT/CLASS/IMAGE), "digits" (comes with scikit-learn), "npz"
            (:mod:`training.data.arrays`), or the user's own by ``package.module:name``: called with
            the data folder and "train" or "test", it returns an :class:`ImageSet`, a torch Dataset
            (:meth:`ImageSet.from_dataset`), or the arguments of :meth:`ImageSet.from_arrays`; the
            hold-out is taken from its "train".
        root: the data folder; None only for "digits" and the user's own kind.
        split: "train", "holdout" or "test".
        size: side of the images in px: any for "folder" (resize and centre cut; None leaves them
            unchanged), a multiple of 8 for "digits" (None: 32), 32 or None for "cifar10"; ignored
            for "npz".
        cache: for "folder" only: a folder that stores the decoded images on disk, for a data set
            that is larger than the memory (:mod:`training.data.cache`).

    Raises:
        InputError: an unknown kind or split, or anything missing or damaged; the message states
            what was expected, what was found and how to fix it.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; available: {', '.join(SPLITS)}")
    if kind not in KINDS and not is_foreign(kind):
        raise unknown("kind of data", kind, KINDS)
    if cache is not None and kind != "folder":
        raise InputError(
            f'a cache on disk (--cache DIR) is only for data of the kind "folder", and {kind!r} '
            "is small and held in memory; leave it out"
        )
    if kind == "digits":
        return read_digits(split, size_px=DEFAULT_PX if size is None else size)
    if is_foreign(kind):
        return _foreign(kind, root, split)
    if root is None:
        raise InputError(f"the data set {kind!r} needs a folder; give one with --data DIR")
    if kind == "npz":
        return read_arrays(root, split)
    if kind == "folder":
        return read_folder(root, split, size_px=size, cache=cache)
    if size not in (None, SIZE_PX):
        raise InputError(
            f"CIFAR-10 images have {SIZE_PX}×{SIZE_PX} px, got the size {size}; leave it out, or "
            'choose the kind "folder" to resize'
        )
    return read_cifar10(root, split)


def _foreign(kind: str, root: Path | None, split: str) -> ImageSet:
    asked: Split = "test" if split == "test" else "train"
    made = called(kind, "data set", root, asked)
    name = kind.rpartition(":")[2]
    if isinstance(made, tuple):
        made = ImageSet.from_arrays(*made, name=name, split=asked)
    elif not isinstance(made, ImageSet):
        made = ImageSet.from_dataset(made, name=name, split=asked)
    return split_of(made, split)


__all__ = [
    "KINDS",
    "SPLITS",
    "ImageSet",
    "Images",
    "Split",
    "kind_of",
    "load_images",
    "split_of",
]
