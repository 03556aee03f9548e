"""The one definition of pasting a patch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .images import GREY_OR_RGB, check_images


def check_patch(patch: NDArray[Any], mask: NDArray[Any], positions: NDArray[Any]) -> None:
    """Check the types and shapes of a patch against one another.

    Raises:
        InputError: ``patch`` is not uint8 P×3×h×w or P×1×h×w, ``mask`` is not bool h×w or N×h×w
            with a True in each, ``positions`` are not integers N×2, or P is neither 1 nor N.
    """
    if (
        patch.dtype != np.uint8
        or patch.ndim != 4
        or patch.shape[1] not in GREY_OR_RGB
        or 0 in patch.shape
    ):
        raise InputError(
            "expected a patch as uint8 P×3×h×w, or P×1×h×w for grey images, got "
            f"{patch.dtype} {patch.shape}"
        )
    if mask.dtype != np.bool_ or mask.ndim not in (2, 3) or mask.shape[-2:] != patch.shape[2:]:
        raise InputError(
            f"expected a mask as bool of the patch's size {patch.shape[2:]}, or one for each "
            f"image, got {mask.dtype} {mask.shape}"
        )
    if not mask.any(axis=(-2, -1)).all():
        raise InputError(
            "expected a mask that covers a pixel, got an empty one: the patch would change nothing"
        )
    if positions.dtype.kind != "i" or positions.ndim != 2 or positions.shape[1] != 2:
        raise InputError(
            f"expected positions as int32 N×2 (top, left), got {positions.dtype} {positions.shape}"
        )
    if patch.shape[0] not in (1, positions.shape[0]):
        raise InputError(
            f"expected 1 patch or one for each of {positions.shape[0]} images, got {patch.shape[0]}"
        )
    if mask.ndim == 3 and mask.shape[0] != positions.shape[0]:
        raise InputError(
            f"expected 1 mask or one for each of {positions.shape[0]} images, got {mask.shape[0]}"
        )


def paste(
    images: NDArray[np.uint8],
    patch: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    positions: NDArray[np.integer[Any]],
) -> NDArray[np.uint8]:
    """Return copies of ``images`` whose pixels under the mask are the patch's.

    Args:
        images: uint8, N×3×H×W.
        patch: uint8, P×3×h×w; with P = 1 every image gets the same patch, with P = N its own.
        mask: bool, h×w, or N×h×w where each image has its own (a patch that is turned or scaled
            differently on each); where it is False the image shows through.
        positions: int32, N×2: row and column, in pixels, of the patch's upper left corner.

    Returns:
        uint8, N×3×H×W.

    Raises:
        InputError: a wrong type or shape, different numbers of positions and images, or a position
            at which the h×w box leaves the image.
        NothingToEvaluate: there are no images.
    """
    check_images(images)
    check_patch(patch, mask, positions)
    count, channels, height, width = images.shape
    if patch.shape[1] != channels:
        raise InputError(
            f"expected a patch of {channels} {'channel' if channels == 1 else 'channels'}, like "
            f"the images, got {patch.shape[1]}"
        )
    if positions.shape[0] != count:
        raise InputError(
            f"expected one position for each of {count} images, got {positions.shape[0]}"
        )
    _check_bounds(positions, (patch.shape[2], patch.shape[3]), (height, width))
    pasted = images.copy()
    if mask.ndim == 3:
        which, rows, columns = np.nonzero(mask)
        own = which if patch.shape[0] > 1 else np.zeros_like(which)
        tops, lefts = positions[which].T.astype(np.intp)
        pasted[which, :, tops + rows, lefts + columns] = patch[own, :, rows, columns]
        return pasted
    rows_in_patch, columns_in_patch = np.nonzero(mask)
    rows = positions[:, :1].astype(np.intp) + rows_in_patch
    columns = positions[:, 1:].astype(np.intp) + columns_in_patch
    # Indices around a slice put their own axes first: N×pixels×3, and 1×pixels×3 broadcasts.
    pasted[np.arange(count)[:, None], :, rows, columns] = patch[
        :, :, rows_in_patch, columns_in_patch
    ].transpose(0, 2, 1)
    return pasted


def _check_bounds(
    positions: NDArray[np.integer[Any]], patch_size: tuple[int, int], image_size: tuple[int, int]
) -> None:
    last = np.subtract(image_size, patch_size)
    if last.min() < 0:
        raise InputError(f"a patch of {patch_size} px does not fit images of {image_size} px")
    outside = np.flatnonzero((positions < 0).any(axis=1) | (positions > last).any(axis=1))
    if outside.size:
        first = int(outside[0])
        raise InputError(
            f"{outside.size} of {len(positions)} positions put the {patch_size} px patch outside "
            f"the {image_size} px image, the first for image {first}: "
            f"(top, left) = {tuple(positions[first].tolist())}; "
            f"allowed are (0, 0) to {tuple(last.tolist())}"
        )
