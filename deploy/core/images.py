"""The one definition of images and of their preprocessing.

Images are uint8, N×3×H×W, channels first, RGB, or N×1×H×W, grey, 0…255. The bytes *are* the codes
of the first layer: zero point 128, scale 2⁻⁶, that is the real number (byte - 128) / 64. So
preprocessing is the identity on the bytes, a device does no float arithmetic on images, and the
zero that a convolution pads with is byte 128.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, NothingToEvaluate
from .text import shape_in_words

INPUT_ZERO_POINT = 128
"""The byte that stands for the real number 0."""

INPUT_SCALE = 2.0**-6
"""The real number between two neighbouring bytes; exact in float32."""

CHANNELS = 3
GREY_OR_RGB = (1, CHANNELS)
CHANNEL_NAMES = {1: "grey", CHANNELS: "RGB"}
"""What files call images of so many channels."""


def int8_codes(images: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return the codes for engines that take them signed: byte - 128, in the same shape."""
    return (images ^ np.uint8(INPUT_ZERO_POINT)).view(np.int8)


def check_images(
    images: NDArray[Any], *, expected_shape: tuple[int, int, int] | None = None
) -> NDArray[np.uint8]:
    """Return ``images`` unchanged if they are uint8, N×3×H×W or (grey) N×1×H×W, N ≥ 1.

    Args:
        images: the value to check.
        expected_shape: (C, H, W) that each image must have; any H and W where None.

    Raises:
        InputError: another type, rank, number of channels or size.
        NothingToEvaluate: N is 0.
    """
    if not isinstance(images, np.ndarray):
        raise InputError(f"expected images as a uint8 numpy array, got {type(images).__name__}")
    if images.dtype != np.uint8:
        raise InputError(
            f"expected images as uint8 (bytes 0…255), got {images.dtype}; the bytes are given to "
            "the engine unchanged, without normalisation"
        )
    if images.ndim != 4 or images.shape[1] not in GREY_OR_RGB:
        hint = ""
        if images.ndim == 4 and images.shape[3] in GREY_OR_RGB:
            hint = "; these are channels-last: images.transpose(0, 3, 1, 2)"
        raise InputError(
            "expected images of shape N×3×H×W, or N×1×H×W for grey ones (channels first), got "
            f"{images.shape}{hint}"
        )
    if images.shape[0] == 0:
        raise NothingToEvaluate("expected at least one image, got none")
    if 0 in images.shape:
        raise InputError(f"expected images with pixels, got shape {images.shape}")
    if expected_shape is not None and images.shape[1:] != tuple(expected_shape):
        raise InputError(
            f"expected images of shape N×{shape_in_words(expected_shape)}, got {images.shape}"
        )
    return images
