"""One image file as bytes of the size asked for, read with Pillow."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from deploy.core.errors import InputError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
DECODING = 1
"""Version of what this file makes of an image: raise it when its bytes change."""

# 16- and 32-bit grey files: Pillow would clip them at 255 without a word.
_DEEP_MODES = ("I", "F")


def read_image(path: Path, size_px: int | None) -> NDArray[np.uint8]:
    """One image as uint8 3×H×W RGB; grey and palette files become RGB, alpha is dropped.

    Args:
        path: a file with one of :data:`SUFFIXES`.
        size_px: side of the square: the shorter side is resized to it (Pillow's BILINEAR,
            antialiased), then the centre is cut out. None: not a pixel is changed.

    Raises:
        InputError: no readable image, or one with more than 8 bits a channel.
    """
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
