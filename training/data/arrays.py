"""Images of your own: arrays in memory, and ``SPLIT.npz`` files of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.images import GREY_OR_RGB
from deploy.core.files import read_npz, write_npz
from training.data.holdout import held_out
from training.data.image_set import ImageSet, image_set


def read_arrays(root: Path, split: str) -> ImageSet:
    """Read ``ROOT/train.npz`` (``train`` and ``holdout``) or ``ROOT/test.npz``.

    A file holds ``images`` (uint8 N×C×H×W or N×H×W×C of 3 channels or 1, or N×H×W), ``labels`` (integers N) and ``classes``
    (N names; without them the classes are 0, 1, …).  The hold-out is a tenth of each class of the
    training images, chosen by their bytes.

    Args:
        root: the folder.
        split: "train", "holdout" or "test".

    Raises:
        InputError: the file is missing or damaged, or holds something else.
    """
    path = root / f"{'test' if split == 'test' else 'train'}.npz"
    if not path.is_file():
        raise InputError(
            f"there is no {path}; data of the kind npz has train.npz and test.npz in one folder, "
            "each with images, labels and classes"
        )
    arrays = read_npz(path)
    lacking = sorted({"images", "labels"} - set(arrays))
    if lacking:
        raise InputError(f"{path} lacks {' and '.join(lacking)}; it holds {', '.join(arrays)}")
    whole = images_from_arrays(
        arrays["images"], arrays["labels"], arrays.get("classes"), name=root.name, split=split
    )
    if split == "test":
        return whole
    keys = [image.tobytes() for image in whole.images]
    kept = held_out(whole.labels, keys, purpose="qadtr hold-out")
    chosen = kept if split == "holdout" else ~kept
    return image_set(
        whole.images[chosen], whole.labels[chosen], whole.classes, name=whole.name, split=split
    )


def write_arrays(images: ImageSet, folder: Path) -> Path:
    """Write a set as ``FOLDER/train.npz``, or ``test.npz``; the path."""
    path = folder / f"{'test' if images.split == 'test' else 'train'}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    classes = np.array(images.classes, dtype=np.str_)
    write_npz(path, {"images": images.images, "labels": images.labels, "classes": classes})
    return path


def images_from_arrays(
    images: NDArray[np.uint8],
    labels: NDArray[Any],
    classes: Sequence[str] | NDArray[Any] | None = None,
    *,
    name: str = "arrays",
    split: str = "train",
) -> ImageSet:
    """Arrays as an :class:`ImageSet`, checked.

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
    if images.ndim == 4 and images.shape[1] not in GREY_OR_RGB and images.shape[3] in GREY_OR_RGB:
        images = images.transpose(0, 3, 1, 2)
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise InputError(f"{name}: expected integer labels, got {labels.dtype}")
    count = int(labels.max(initial=0)) + 1
    names = [str(n) for n in (range(count) if classes is None else classes)]
    return image_set(images, labels.astype(np.int64), tuple(names), name=name, split=split)
