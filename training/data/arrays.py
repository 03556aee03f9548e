"""Images of your own in ``SPLIT.npz`` files, as :meth:`ImageSet.write` writes them."""

from __future__ import annotations

from pathlib import Path

from deploy.core.errors import InputError
from deploy.core.npz import read_npz
from training.data.image_set import ImageSet, split_of


def read_arrays(root: Path, split: str) -> ImageSet:
    """Read ``ROOT/train.npz`` (``train`` and ``holdout``) or ``ROOT/test.npz``.

    A file holds ``images``, ``labels`` and ``classes`` as :meth:`ImageSet.from_arrays` takes them
    (without ``classes`` they are 0, 1, …).  The hold-out is that of :meth:`ImageSet.hold_out`.

    Args:
        root: the folder.
        split: "train", "holdout" or "test".

    Raises:
        InputError: the file is missing or damaged, or has other contents.
    """
    path = root / f"{'test' if split == 'test' else 'train'}.npz"
    if not path.is_file():
        raise InputError(
            f"there is no {path}; data of the kind npz needs train.npz and test.npz in one "
            "folder, each with images, labels and classes"
        )
    arrays = read_npz(path)
    lacking = sorted({"images", "labels"} - set(arrays))
    if lacking:
        raise InputError(f"{path} lacks {' and '.join(lacking)}; it holds {', '.join(arrays)}")
    try:
        whole = ImageSet.from_arrays(
            arrays["images"],
            arrays["labels"],
            arrays.get("classes"),
            name=root.name,
            split="test" if split == "test" else "train",
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return split_of(whole, split)
