"""The common form of every data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.images import GREY_OR_RGB
from deploy.core.limits import MOST_CLASSES
from deploy.core.npz import write_npz
from deploy.core.patch_origin import TriedOn
from deploy.core.text import shape_in_words
from training.data.holdout import held_out

Split = Literal["train", "holdout", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
_HASHED_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images of one split, checked, with the digest that names this copy of them.

    Attributes:
        images: uint8 N×3×H×W, RGB, or N×1×H×W, grey; channel first, 0…255; read-only where they
            are on disk (:mod:`training.data.cache`): an index or a slice reads only those images.
        labels: int64 N, indices into `classes`.
        classes: class names; the index of a name is its label.
        name: name of the data set, as records print it.
        split: "train" (without the hold-out), "holdout" or "test".
        digest: SHA-256 (hex) of the shape, the image bytes and the labels. Two copies of a data
            set that differ in one byte (a JPEG copy, another resize) have different digests.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(60) % 3
        >>> images = rng.integers(0, 90, (60, 3, 16, 24)).astype(np.uint8)
        >>> images[np.arange(60), labels] += 120  # a class is a colour
        >>> training_set = qadtr.ImageSet.from_arrays(images, labels, ["a", "b", "c"])
        >>> test_set = qadtr.ImageSet.from_arrays(images, labels, ["a", "b", "c"], split="test")
        >>> training_set.images.shape, len(training_set), training_set.split
        ((60, 3, 16, 24), 60, 'train')
        >>> rest, holdout = training_set.hold_out()
        >>> len(rest), len(holdout)
        (54, 6)
        >>> file = training_set.write("images")  # for --data images on the command line
        >>> len(qadtr.ImageSet.from_folder("images", "holdout"))
        6
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    name: str
    split: str
    digest: str

    @classmethod
    def from_arrays(
        cls,
        images: NDArray[np.uint8],
        labels: NDArray[Any] | Sequence[int],
        classes: Sequence[str] | NDArray[Any] | None = None,
        *,
        name: str = "arrays",
        split: str = "train",
    ) -> Self:
        """An `ImageSet` from arrays, which are checked.

        Args:
            images: uint8 N×C×H×W or N×H×W×C, of 3 channels (RGB) or 1 (grey), or N×H×W.
            labels: integers N, indices into ``classes``.
            classes: names; None: 0, 1, … up to the largest label.
            name: of the data set.
            split: "train", "holdout" or "test".

        Raises:
            InputError: another type or shape, or a label without a class.
        """
        images = np.asarray(images)
        if images.ndim == 3:
            images = images[:, None]
        if (
            images.ndim == 4
            and images.shape[1] not in GREY_OR_RGB
            and images.shape[3] in GREY_OR_RGB
        ):
            images = images.transpose(0, 3, 1, 2)
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu":
            raise InputError(f"{name}: expected integer labels, got {labels.dtype}")
        count = int(labels.max(initial=0)) + 1 if classes is None else np.size(classes)
        if count > MOST_CLASSES:
            raise InputError(f"{name}: expected at most {MOST_CLASSES:,} classes, got {count:,}")
        names = tuple(str(n) for n in (range(count) if classes is None else np.ravel(classes)))
        return cls._checked(images, labels.astype(np.int64), names, name=name, split=split)

    @classmethod
    def from_folder(
        cls,
        folder: Path | str | None,
        split: str = "train",
        *,
        kind: str | None = None,
        size: int | None = None,
        cache: Path | None = None,
    ) -> ImageSet:
        """One split of a data set on disk, as a config's ``[data]`` reads it.

        Args:
            folder: with SPLIT/CLASS/IMAGE, ``train.npz`` and ``test.npz``, or
                ``cifar-10-batches-py``; None for digits.
            split: "train" (without the hold-out), "holdout" (a tenth of each class) or "test".
            kind: "folder", "npz", "cifar10", "digits", or ``package.module:callable``; None: by the
                contents of the folder.
            size: side in pixels, for "folder" and "digits".
            cache: for "folder": a folder that stores the decoded images on disk.

        Raises:
            InputError: as :func:`training.data.load_images`.
        """
        from training.data import kind_of, load_images  # whose readers give an ImageSet

        root = None if folder is None else Path(folder)
        return load_images(
            kind_of(root) if kind is None else kind, root, split, size=size, cache=cache
        )

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        classes: Sequence[str] | None = None,
        *,
        name: str | None = None,
        split: str = "train",
    ) -> Self:
        """A map-style torch ``Dataset`` of (image, label), read once into memory.

        Args:
            dataset: has ``len()`` and returns, by index, an image and its label. The image is a PIL
                image, an array or tensor of uint8, C×H×W, H×W×C or H×W, or a float tensor of 0…1
                as torchvision's ``ToTensor`` returns it (converted back to its bytes). Leave out
                augmentation and normalization: they are done elsewhere.
            classes: names; None: ``dataset.classes`` where there are some, else 0, 1, ….
            name: of the data set; None: the class's name.
            split: "train", "holdout" or "test".

        Raises:
            InputError: it has no length or no such pairs, images of different sizes, or values that
                are neither bytes nor in 0…1.

        Example:
            >>> pairs = [(np.full((8, 8, 3), i, np.uint8), i % 2) for i in range(10)]
            >>> qadtr.ImageSet.from_dataset(pairs, ["even", "odd"]).images.shape
            (10, 3, 8, 8)
        """
        title = type(dataset).__name__ if name is None else name
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InputError(
                f"{title}: expected a map-style dataset, with len() and an index; for an "
                "iterable dataset, give its images to ImageSet.from_arrays"
            )
        images, labels = [], []
        for index in range(len(dataset)):
            pair = dataset[index]
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(
                    f"{title}: expected pairs (image, label), but item {index} is a "
                    f"{type(pair).__name__}"
                )
            images.append(_bytes_of(pair[0], f"{title}: image {index}"))
            if images[-1].shape != images[0].shape:
                raise InputError(
                    f"{title}: image {index} is {shape_in_words(images[-1].shape)}, but the first "
                    f"one is {shape_in_words(images[0].shape)}; give the dataset a transform that "
                    "resizes them"
                )
            labels.append(int(pair[1]))
        if not images:
            raise InputError(f"{title}: expected images, found none")
        known = getattr(dataset, "classes", None) if classes is None else classes
        return cls.from_arrays(np.stack(images), np.array(labels), known, name=title, split=split)

    @classmethod
    def _checked(
        cls,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        classes: tuple[str, ...],
        *,
        name: str,
        split: str,
    ) -> Self:
        """See :func:`image_set`."""
        _check(images, labels, classes, f"data set {name!r}, split {split!r}", split)
        images = np.ascontiguousarray(images)
        labels = np.ascontiguousarray(labels)
        return cls(
            images=images,
            labels=labels,
            classes=classes,
            name=name,
            split=split,
            digest=digest_of(images, labels),
        )

    def hold_out(self) -> tuple[ImageSet, ImageSet]:
        """The set without its hold-out, and the hold-out: a tenth of each class, at least one
        image, chosen by the images' bytes.

        Raises:
            InputError: a class has fewer than two images, or the set is not a training set.
        """
        if self.split != "train":
            raise InputError(f"images are held out of a training set, not of the {self.split} set")
        keys = [image.tobytes() for image in self.images]
        chosen = held_out(self.labels, keys, purpose="qadtr hold-out")
        return self.chosen(~chosen), replace(self.chosen(chosen), split="holdout")

    def chosen(self, which: NDArray[Any]) -> ImageSet:
        """The images at ``which``, indices or flags, as a set with its own digest."""
        return image_set(
            self.images[which], self.labels[which], self.classes, name=self.name, split=self.split
        )

    def write(self, folder: Path | str) -> Path:
        """Write it as ``FOLDER/train.npz`` or ``test.npz``, data of the kind "npz"; returns the
        path.

        Raises:
            InputError: it is a hold-out; readers take the hold-out from ``train.npz``.
        """
        if self.split == "holdout":
            raise InputError(
                "a hold-out has no file of its own; write the whole training set, of "
                "which its readers hold out a tenth"
            )
        path = Path(folder) / f"{'test' if self.split == 'test' else 'train'}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        classes = np.array(self.classes, dtype=np.str_)
        write_npz(path, {"images": self.images, "labels": self.labels, "classes": classes})
        return path

    def __len__(self) -> int:
        return len(self.images)

    @property
    def about(self) -> TriedOn:
        """Name, split and digest, as files that depend on the images record them."""
        return TriedOn(name=self.name, split=self.split, digest=self.digest)


Images = Path | ImageSet | Sequence[ImageSet]
"""What stages take for the images of a run: a data folder, or splits in memory."""


def split_of(images: ImageSet | Sequence[ImageSet], split: str) -> ImageSet:
    """The split of that name among sets in memory.  Where they hold no "holdout", it is what
    :meth:`ImageSet.hold_out` takes from "train", and "train" is the rest.

    Raises:
        InputError: there is no such split; the message lists the existing ones.
    """
    by_name = {one.split: one for one in ([images] if isinstance(images, ImageSet) else images)}
    if "holdout" not in by_name and split in ("train", "holdout") and "train" in by_name:
        return by_name["train"].hold_out()[split == "holdout"]
    if split not in by_name:
        raise InputError(
            f"this needs the {split} images, got {', '.join(by_name) or 'none'}; make them with "
            f'ImageSet.from_arrays(…, split="{split}")'
        )
    return by_name[split]


def require_holdout_of(training_set: ImageSet, holdout: ImageSet) -> None:
    """Refuse a hold-out whose classes or image size differ from those of the training set.

    Raises:
        InputError: they differ; the message names what differs.
    """
    for what, expected, found in (
        ("classes", training_set.classes, holdout.classes),
        ("shape", training_set.images.shape[1:], holdout.images.shape[1:]),
    ):
        if expected != found:
            raise InputError(
                f"the hold-out's {what} is not the training set's: expected {expected}, got {found}"
            )


def image_set(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    *,
    name: str,
    split: str,
) -> ImageSet:
    """Check arrays against each other and put them into an `ImageSet`: images uint8 N×3×H×W or
    N×1×H×W with N ≥ 1, labels int64 N in 0…len(classes)−1, at least two distinct classes.

    Raises:
        InputError: no images, a wrong shape or type, or a label that has no class.
    """
    return ImageSet._checked(images, labels, classes, name=name, split=split)


def _check(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    where: str,
    split: str,
) -> None:
    if split not in SPLITS:
        raise InputError(f"{where}: expected one of {', '.join(SPLITS)}")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in GREY_OR_RGB:
        raise InputError(
            f"{where}: expected uint8 images N×3×H×W, or N×1×H×W for grey ones, got "
            f"{images.dtype} {shape_in_words(images.shape)}"
        )
    if len(images) == 0:
        raise InputError(f"{where}: expected images, found none")
    if labels.dtype != np.int64 or labels.shape != (len(images),):
        raise InputError(
            f"{where}: expected {len(images)} int64 labels for {len(images)} images, got "
            f"{labels.dtype} {shape_in_words(labels.shape)}"
        )
    if len(set(classes)) != len(classes) or len(classes) < 2:
        raise InputError(f"{where}: expected at least two distinct classes, got {list(classes)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise InputError(
            f"{where}: labels must be 0…{len(classes) - 1} for its {len(classes)} classes, but "
            f"they run from {low} to {high}"
        )


def _bytes_of(image: Any, where: str) -> NDArray[np.uint8]:
    """An image of a Dataset as uint8, its axes as they came."""
    array = np.asarray(image)
    if array.dtype == np.uint8:
        return array
    scaled = array * 255.0 if array.dtype.kind == "f" else array
    found = np.rint(scaled)
    # ToTensor divides bytes by 255 in float32; values further from a byte are not such an image.
    if array.dtype.kind != "f" or not (np.abs(scaled - found) < 1e-3).all() or not _is_byte(found):
        raise InputError(
            f"{where}: expected uint8 of 0…255, or float of 0…1 that were bytes, got "
            f"{array.dtype} of {array.min():g} to {array.max():g}; leave normalization out of "
            "the dataset, because quantize(mean=…, std=…) builds it into the network"
        )
    return found.astype(np.uint8)


def _is_byte(values: NDArray[Any]) -> bool:
    return bool((values >= 0).all() and (values <= 255).all())


class ImageDigest:
    """The digest of an `ImageSet` whose images are added one after the other."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._digest = hashlib.sha256("×".join(map(str, shape)).encode())

    def add(self, images: NDArray[np.uint8]) -> None:
        """Add the next image or images, uint8, any shape."""
        self._digest.update(np.ascontiguousarray(images).data)

    def so_far(self) -> str:
        """SHA-256 (hex) of the shape and the images added so far."""
        return self._digest.hexdigest()

    def of_set(self, labels: NDArray[np.int64]) -> str:
        """`ImageSet.digest`, when all images have been added; int64 N."""
        whole = self._digest.copy()
        whole.update(labels.astype("<i8").data)
        return whole.hexdigest()


def digest_of(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """`ImageSet.digest` of uint8 N×3×H×W, read in parts where they lie on disk, and int64 N."""
    digest = ImageDigest(images.shape)
    for start in range(0, len(images), _HASHED_AT_ONCE):
        digest.add(images[start : start + _HASHED_AT_ONCE])
    return digest.of_set(labels)
