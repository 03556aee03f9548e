"""Any data set laid out as SPLIT/CLASS/IMAGE, read with Pillow."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from training.data.cache import cached_images
from training.data.image_file import read_image
from training.data.image_set import ImageSet, image_set
from training.data.listing import Listing, list_folder

_log = logging.getLogger(__name__)


def read_folder(
    root: Path,
    split: str,
    *,
    size_px: int | None = None,
    name: str | None = None,
    cache: Path | None = None,
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
        cache: folder that keeps the decoded images on disk (:mod:`training.data.cache`), so that
            no process holds them; made where it is not there. None: they are held in memory.

    Returns:
        uint8 N×3×H×W RGB, the same bytes and digest with a cache and without; read-only with one.
        Grey and palette files become RGB; an alpha channel is dropped.

    Raises:
        InputError: a folder is missing or empty, a file is no readable image, the sizes differ
            and no `size_px` was given, or the cache is of other images or cannot be written.
    """
    if size_px is not None and size_px < 1:
        raise InputError(f"Expected an image size of at least 1 px, got {size_px}.")
    listing = list_folder(root, split, name)
    if cache is not None:
        return cached_images(listing, size_px, cache)
    _log.info("reading %d images of %s", len(listing.files), listing.folder)
    return image_set(
        _in_memory(listing, size_px),
        listing.labels,
        listing.classes,
        name=listing.name,
        split=split,
    )


def _in_memory(listing: Listing, size_px: int | None) -> NDArray[np.uint8]:
    first = read_image(listing.folder / listing.files[0], size_px)
    images = np.empty((len(listing.files), *first.shape), np.uint8)
    for number, image in enumerate(listing.decoded(size_px)):
        images[number] = image
    return images
