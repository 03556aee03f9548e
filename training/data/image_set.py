"""The one shape in which every data set enters the system."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.images import GREY_OR_RGB
from deploy.core.patch_origin import TriedOn

Split = Literal["train", "holdout", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
_HASHED_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images of one split, checked, with the digest that names this copy of them.

    Attributes:
        images: uint8 N×3×H×W, RGB, or N×1×H×W, grey; channel first, 0…255; read-only where they lie on disk
            (:mod:`training.data.cache`): an index or a slice reads what it names, no more.
        labels: int64 N, indices into `classes`.
        classes: class names; the index of a name is its label.
        name: name of the data set, as records print it.
        split: "train" (without the hold-out), "holdout" or "test".
        digest: SHA-256 (hex) of the shape, the image bytes and the labels. Two copies of a data
            set that differ in one byte (a JPEG copy, another resize) have different digests.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    name: str
    split: str
    digest: str

    def __len__(self) -> int:
        return len(self.images)

    @property
    def about(self) -> TriedOn:
        """Name, split and digest, as files that depend on the images say them."""
        return TriedOn(name=self.name, split=self.split, digest=self.digest)


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
    where = f"data set {name!r}, split {split!r}"
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in GREY_OR_RGB:
        raise InputError(
            f"{where}: expected uint8 images N×3×H×W, or N×1×H×W for grey ones, got "
            f"{images.dtype} {_by(images.shape)}."
        )
    if len(images) == 0:
        raise InputError(f"{where}: there are no images in it.")
    if labels.dtype != np.int64 or labels.shape != (len(images),):
        raise InputError(
            f"{where}: expected {len(images)} int64 labels for {len(images)} images, "
            f"got {labels.dtype} {_by(labels.shape)}."
        )
    if len(set(classes)) != len(classes) or len(classes) < 2:
        raise InputError(f"{where}: expected at least two distinct classes, got {list(classes)}.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise InputError(
            f"{where}: labels must be 0…{len(classes) - 1} for its {len(classes)} classes, "
            f"but they run from {low} to {high}."
        )
    images = np.ascontiguousarray(images)
    labels = np.ascontiguousarray(labels)
    return ImageSet(
        images=images,
        labels=labels,
        classes=classes,
        name=name,
        split=split,
        digest=digest_of(images, labels),
    )


class ImageDigest:
    """The digest of an `ImageSet` whose images come one after the other."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._digest = hashlib.sha256(_by(shape).encode())

    def add(self, images: NDArray[np.uint8]) -> None:
        """The next image or images, uint8, any shape."""
        self._digest.update(np.ascontiguousarray(images).data)

    def so_far(self) -> str:
        """SHA-256 (hex) of the shape and the images added yet."""
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


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(str(length) for length in shape) or "scalar"
