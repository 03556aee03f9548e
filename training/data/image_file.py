"""One image file as bytes of the requested size, read with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from deploy.core.errors import InputError
from deploy.core.limits import MOST_PIXELS

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What a file is tried as, whatever its ending; Pillow knows formats for which it starts programs.
"""

DECODING = 2
"""Version of what this file makes of an image: raise it when its bytes change."""


def read_image(path: Path, size_px: int | None) -> NDArray[np.uint8]:
    """One image as uint8 3×H×W RGB, turned by its EXIF orientation, as every viewer shows it; grey
    and palette files become RGB, alpha is dropped.

    Args:
        path: a file with one of :data:`SUFFIXES`.
        size_px: side of the square: the shorter side is resized to it (Pillow's BILINEAR,
            antialiased), then the centre is cut out. None: no pixel is changed.

    Raises:
        InputError: it is not a readable image, has more than 8 bits per channel, or is so large or
            so narrow that it would exhaust the memory.
    """
    image = decoded(path, "RGB", turned=True)
    if size_px is not None:
        image = _square(image, size_px, path)
    return np.asarray(image, np.uint8).transpose(2, 0, 1)


def decoded(
    path: Path, mode: str, *, turned: bool = False, formats: tuple[str, ...] = FORMATS
) -> Image.Image:
    """The pixels of a file of 8 bits per channel in another of Pillow's modes; the header is
    checked before anything is decoded.

    Args:
        turned: whether to turn the image by its EXIF orientation.
        formats: Pillow's names of the formats to try.

    Raises:
        InputError: as :func:`read_image`.
    """
    try:
        with Image.open(path, formats=formats) as opened:
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise InputError(
                    f"{path} has {width:,}×{height:,} px, but at most {MOST_PIXELS:,} in total "
                    "are read; make it smaller first"
                )
            if (deep := _deep(opened)) is not None:
                raise InputError(
                    f"{path} has more than 8 bits per channel ({deep}), expected 8-bit images; "
                    "convert it first"
                )
            image = ImageOps.exif_transpose(opened) if turned else opened
            return image.convert(mode)
    except InputError:
        raise
    except Exception as error:  # a damaged image surfaces from Pillow under many names
        kind = "image" if formats is FORMATS else " or ".join(formats)
        raise InputError(
            f"{path} is not a readable {kind} ({str(error) or type(error).__name__})"
        ) from error


def _deep(opened: Image.Image) -> str | None:
    """The form in which a file has more than 8 bits per channel, None where it does not. Pillow
    silently clips 16-bit grey at 255 and drops the lower byte of 16-bit colour."""
    if opened.mode.startswith(("I", "F")):
        return f"mode {opened.mode}"
    for decoder, _, _, arguments in getattr(opened, "tile", ()):
        stored, most = (*arguments, None)[:2] if isinstance(arguments, tuple) else (arguments, None)
        if isinstance(stored, str) and ";16" in stored:
            return f"stored as {stored}"
        if decoder.startswith("ppm") and isinstance(most, int) and most > 255:
            return f"values up to {most}"
    return None


def _square(image: Image.Image, size_px: int, path: Path) -> Image.Image:
    width, height = image.size
    shorter = min(width, height)
    if width * height * size_px**2 > MOST_PIXELS * shorter**2:
        raise InputError(
            f"{path} has {width:,}×{height:,} px, and with the shorter side at {size_px} it "
            f"would have more than {MOST_PIXELS:,}: it is too narrow for an image; leave it out"
        )
    if shorter != size_px:
        # Rounded to the nearest pixel; the shorter side is exact.
        width = max(size_px, round(width * size_px / shorter))
        height = max(size_px, round(height * size_px / shorter))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size_px) // 2, (height - size_px) // 2
    return image.crop((left, top, left + size_px, top + size_px))
