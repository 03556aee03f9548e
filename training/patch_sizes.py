"""Sizes of patches: a side in pixels, or a share of the image's area, such as "5%"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deploy.core.errors import InputError

KEYS = ("size_px", "sizes_px", "personal_px", "patch_px")
"""Settings, of attacks and defenses, that are the side of a patch or several."""

MOST_OF_SIDE = 0.5
"""Of the image's shorter side: a training patch above this hides more than a quarter of the image,
and in a training it is there because the config was written for larger images."""


def side_px(size: int | str, image_size: tuple[int, int]) -> int:
    """The side of a square patch, in whole pixels, at least 1.

    Args:
        size: pixels, or "P%" of the image's area with 0 < P ≤ 100.
        image_size: height and width in pixels.

    Raises:
        InputError: a text of another form.

    Examples:
        >>> side_px(8, (32, 32)), side_px("5%", (224, 224)), side_px("2.9%", (224, 224))
        (8, 50, 38)
    """
    if isinstance(size, int):
        return size
    share = share_of(size)
    height, width = image_size
    return max(1, round(math.sqrt(share * height * width)))


def share_of(size: str) -> float:
    """The share, 0…1, that a text such as "5%" names.

    Raises:
        InputError: the text does not name a share.
    """
    number = size.strip().removesuffix("%")
    try:
        share = float(number) / 100.0
    except ValueError:
        share = math.nan
    if not size.strip().endswith("%") or not 0.0 < share <= 1.0:
        raise InputError(
            f"expected a patch size in pixels, such as 8, or as a share of the image's area, such "
            f"as 5%; got {size!r}"
        )
    return share


def in_pixels(settings: Mapping[str, Any], image_size: tuple[int, int]) -> dict[str, Any]:
    """The settings with each text under one of :data:`KEYS` as pixels; others as they are.

    Raises:
        InputError: a text there that is not a size.
    """

    def as_side(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(as_side(one) for one in value)
        return side_px(value, image_size) if isinstance(value, str) else value

    return {key: as_side(value) if key in KEYS else value for key, value in settings.items()}


def require_fit(sides: Mapping[str, int], image_size: tuple[int, int]) -> None:
    """Refuse training patches that are too large for the images.

    Args:
        sides: the side of the largest patch in pixels, by setting.
        image_size: height and width in pixels.

    Raises:
        InputError: a side is over :data:`MOST_OF_SIDE` of the image's shorter side.
    """
    most = int(MOST_OF_SIDE * min(image_size))
    too_large = [f"{key} {side} px" for key, side in sides.items() if side > most]
    if too_large:
        height, width = image_size
        raise InputError(
            f"defense.{', defense.'.join(too_large)}: too large for images of {height}×{width} "
            f"px, for which training patches have at most {most} px; the config was made for "
            'other images, so set the sizes in pixels, or as a share of the image such as "5%"'
        )
