"""The images that all analyses of one call share, without and with their patches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deploy.core.pasting import paste
from deploy.core.patch_set import PatchSet
from eval.measure.patch_images import require_images
from training.data import ImageSet
from training.data.subset import chosen_indices


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Images of one split under one patch set; row i is the same image everywhere.

    Attributes:
        clean: uint8 N×3×H×W.
        patched: uint8 N×3×H×W, the same images, each with its patch at its place.
        labels: int64 N.
        region: bool N×H×W, True under the patch.
        patch_set: of these N images only.
    """

    clean: NDArray[np.uint8]
    patched: NDArray[np.uint8]
    labels: NDArray[np.int64]
    region: NDArray[np.bool_]
    patch_set: PatchSet

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.clean.shape[2], self.clean.shape[3]

    def patched_at(self, top: int, left: int) -> NDArray[np.uint8]:
        """The images with every patch at one place instead of its own; uint8 N×3×H×W.

        Raises:
            InputError: the patch leaves the image there.
        """
        positions = np.tile(np.array([[top, left]], dtype=np.int32), (len(self), 1))
        return paste(self.clean, self.patch_set.patch, self.patch_set.mask, positions)


def draw_sample(images: ImageSet, patch_set: PatchSet, count: int | None) -> Sample:
    """The first ``count`` images of a patch set (None: all), in an order that depends only on their
    number.

    Raises:
        InputError: ``count`` exceeds the images of the set, or the set names images that do not
            exist.
    """
    require_images(patch_set, images)
    rows = chosen_indices(len(patch_set.image_indices), count)
    indices = patch_set.image_indices[rows]
    # A patch that each image shows turned or scaled in its own way is universal and one of many.
    own = replace(
        patch_set,
        patch=patch_set.patch if len(patch_set.patch) == 1 else patch_set.patch[rows],
        mask=patch_set.mask if patch_set.mask.ndim == 2 else patch_set.mask[rows],
        positions=patch_set.positions[rows],
        image_indices=indices,
    )
    clean = images.images[indices]
    return Sample(
        clean=clean,
        patched=own.paste_on(clean),
        labels=images.labels[indices],
        region=covered(own, (clean.shape[2], clean.shape[3])),
        patch_set=own,
    )


def covered(patch_set: PatchSet, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where each image's patch lies: bool N×H×W."""
    count = len(patch_set.positions)
    masks = np.broadcast_to(patch_set.mask, (count, *patch_set.size_px))
    which, rows, columns = np.nonzero(masks)
    tops, lefts = patch_set.positions[which].T
    region = np.zeros((count, *image_size), dtype=np.bool_)
    region[which, tops + rows, lefts + columns] = True
    return region
