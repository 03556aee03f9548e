"""Any data set laid out as SPLIT/CLASS/IMAGE, read with Pillow."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from deploy.core.errors import InputError
from training.data.cache import cached_images
from training.data.image_file import read_image
from training.data.image_set import ImageSet, image_set
from training.data.listing import list_folder

_SIZED = "at {0}×{0} px (data.size: the shorter side is resized to it, the centre is cut out)"
_log = logging.getLogger(__name__)


def read_folder(
    root: Path,
    split: str,
    *,
    size_px: int | None = None,
    name: str | None = None,
    cache: Path | None = None,
) -> ImageSet:
    """Read `ROOT/SPLIT/CLASS/IMAGE`: uint8 N×3×H×W RGB.

    The hold-out is 10% of each class of `train/`, chosen by the path of the image in it, so that
    it is the same at every size.

    Args:
        root: as :func:`training.data.listing.list_folder`; so are `split` and `name`.
        size_px: as :func:`training.data.image_file.read_image`; with None the images must all have
            one size already.
        cache: folder that keeps the decoded images on disk (:mod:`training.data.cache`); None:
            they are held in memory. Bytes and digest are the same.

    Raises:
        InputError: a folder is missing or empty, a file is not a readable image, the sizes differ
            and no `size_px` was given, or the cache holds other images or cannot be written.
    """
    if size_px is not None and size_px < 1:
        raise InputError(f"expected an image size of at least 1 px, got {size_px}")
    listing = list_folder(root, split, name)
    sized = "as they are" if size_px is None else _SIZED.format(size_px)
    _log.info("reading %d images of %s %s", len(listing.files), listing.folder, sized)
    if cache is not None:
        return cached_images(listing, size_px, cache)
    first = read_image(listing.folder / listing.files[0], size_px)
    images = np.empty((len(listing.files), *first.shape), np.uint8)
    for number, image in enumerate(listing.decoded(size_px)):
        images[number] = image
    return image_set(images, listing.labels, listing.classes, name=listing.name, split=split)
