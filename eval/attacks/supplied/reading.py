"""Supplied patches as files: one PNG, or an npz with one or more patches.

The npz has no pickle and these arrays, of which only the first is required:

* ``patches``: k×3×h×w (or 3×h×w for one), uint8 0…255 or float 0…1;
* ``targets``: integers, k: the class that each patch is to cause;
* ``mask``: bool, or numbers 0 and 1, or 0 and 255, h×w or k×h×w: where each patch covers the image.

The published ImageNet-Patch collection has this form: ``patches`` 10×3×224×224 float and
``targets`` 10. Its patches lie in the middle of a black canvas as large as the image; the canvas is
cut off (:meth:`Supplied.cut`). The black frame of a patch that is smaller than the image is part of
the patch.

References: Pintor et al., "ImageNet-Patch: a dataset for benchmarking machine learning robustness
against adversarial patches" (Pattern Recognition 2023).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.files import sha256_of
from deploy.core.images import GREY_OR_RGB
from deploy.core.npz import read_npz
from training.data.image_file import decoded

OPAQUE = 128
"""Of a PNG's alpha, 0…255: from here on a pixel covers the image. Pasting does not blend."""

_MOST_BYTES = 1 << 30
_ARRAYS = {"patches", "targets", "mask"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Supplied:
    """The patches of one file.

    Attributes:
        name: of the file, without its ending.
        sha256: of the file.
        patches: uint8 k×3×h×w.
        masks: bool k×h×w, True where the patch covers.
        targets: a class for each, or None where the file names none.
        bare: the file does not state what the patches cover, so they may lie on a canvas.
    """

    name: str
    sha256: str
    patches: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    targets: tuple[int, ...] | None
    bare: bool = False

    def cut(self, image_size: tuple[int, int]) -> Supplied:
        """The patches without the canvas that they lie on, for images of (H, W) px.

        A canvas is at least as high or as wide as the image, and black around all patches.
        """
        size = self.patches.shape[2:]
        if not self.bare or (size[0] < image_size[0] and size[1] < image_size[1]):
            return self
        rows, columns = _shown(self.patches)
        patches = np.ascontiguousarray(self.patches[:, :, rows, columns])
        if patches.shape == self.patches.shape:
            return self
        _log.warning(
            "%s: a black canvas of %d×%d px, cut to the %d×%d px that its patches show",
            self.name,
            *size,
            *patches.shape[2:],
        )
        return replace(
            self, patches=patches, masks=np.ones((len(patches), *patches.shape[2:]), bool)
        )


def read_supplied(path: Path) -> Supplied:
    """Read a PNG or an npz of patches.

    Raises:
        InputError: the file is of another kind, missing or damaged, or has arrays that do not fit.
    """
    if not path.is_file():
        raise InputError(f"there is no patch file {path}")
    readers = {".png": _from_png, ".npz": _from_npz}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: a supplied patch is a .png or .npz file")
    patches, masks, targets, bare = readers[path.suffix.lower()](path)
    if not masks.any(axis=(1, 2)).all():
        raise InputError(f"{path}: a patch whose mask covers no pixel would change nothing")
    return Supplied(
        name=path.stem,
        sha256=sha256_of(path),
        patches=patches,
        masks=masks,
        targets=targets,
        bare=bare,
    )


_Parts = tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[int, ...] | None, bool]


def _from_png(path: Path) -> _Parts:
    pixels = np.asarray(decoded(path, "RGBA", formats=("PNG",)), np.uint8)
    colour = np.ascontiguousarray(pixels[..., :3].transpose(2, 0, 1))
    return colour[None], pixels[None, ..., 3] >= OPAQUE, None, False


def _from_npz(path: Path) -> _Parts:
    arrays = read_npz(path, max_bytes=_MOST_BYTES)
    if "patches" not in arrays or not set(arrays) <= _ARRAYS:
        raise InputError(
            f"{path} has arrays {', '.join(sorted(arrays)) or 'of no name'}; expected patches, and "
            "where wanted targets and mask"
        )
    patches = _as_bytes(path, arrays["patches"])
    count, _, height, width = patches.shape
    targets = _targets(path, arrays["targets"], count) if "targets" in arrays else None
    if "mask" in arrays:
        return patches, _masks(path, arrays["mask"], (count, height, width)), targets, False
    return patches, np.ones((count, height, width), np.bool_), targets, True


def _as_bytes(path: Path, given: NDArray[Any]) -> NDArray[np.uint8]:
    patches = given[None] if given.ndim == 3 else given
    if patches.ndim != 4 or patches.shape[1] not in GREY_OR_RGB or 0 in patches.shape:
        raise InputError(
            f"{path}: expected patches as k×3×h×w, or k×1×h×w for grey ones, got {given.shape}"
        )
    if patches.dtype == np.uint8:
        return patches
    if patches.dtype.kind != "f" or not np.isfinite(patches).all():
        raise InputError(
            f"{path}: expected patches as uint8 0…255 or finite float 0…1, got {patches.dtype}"
        )
    if patches.min() < 0.0 or patches.max() > 1.0:
        raise InputError(
            f"{path}: expected float patches in 0…1, got {patches.min():g} to {patches.max():g}"
        )
    result: NDArray[np.uint8] = np.rint(patches.astype(np.float64) * 255.0).astype(np.uint8)
    return result


def _targets(path: Path, given: NDArray[Any], count: int) -> tuple[int, ...]:
    if given.dtype.kind not in "iu" or given.size != count or (given < 0).any():
        raise InputError(
            f"{path}: expected targets as {count} classes, integers of 0 or more, got "
            f"{given.dtype} {given.shape}"
        )
    return tuple(int(target) for target in given.ravel())


def _masks(path: Path, given: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if given.shape not in (shape, shape[1:]) or given.dtype.kind not in "biuf":
        raise InputError(
            f"{path}: expected mask as 0 and 1 of shape {shape[1:]} or {shape}, got "
            f"{given.dtype} {given.shape}"
        )
    found = np.unique(given)
    if not (np.isin(found, (0, 1)).all() or np.isin(found, (0, 255)).all()):
        raise InputError(
            f"{path}: expected mask as 0 and 1, or 0 and 255; it has "
            f"{', '.join(f'{value:g}' for value in found[:5])}{' …' if len(found) > 5 else ''}"
        )
    return np.broadcast_to(given.astype(np.bool_), shape).copy()


def _shown(patches: NDArray[np.uint8]) -> tuple[slice, slice]:
    """The box outside of which every patch is black; the whole canvas where there is no box."""
    rows = np.flatnonzero(patches.any(axis=(0, 1, 3)))
    columns = np.flatnonzero(patches.any(axis=(0, 1, 2)))
    if rows.size == 0:  # wholly black patches: the black is their content
        return slice(None), slice(None)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
