"""The placement of supplied patches: upright, or turned, scaled and shifted (affine)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from deploy.core.errors import InputError
from deploy.core.patch_origin import PatchOrigin
from deploy.core.patch_set import PatchSet
from eval.attacks.judging import generator_for
from eval.attacks.placement import Placement, positions_for
from eval.attacks.settings import Degrees
from eval.attacks.supplied.reading import Supplied
from training.validated import AtLeast0, AtLeast1, Recorded, ScaleRange, validated
from training.warping import paste_warped


@validated()
class PlacingSettings(Recorded):
    """How a supplied patch is put on images.

    Attributes:
        size_px: side that the patch's longer side is resized to; None keeps the file's pixels.
        placement: law of the box's place; ``random`` draws one for each image.
        margin_px: distance of a corner placement from the image's edges.
        rotation_degrees: each image draws an angle in ±this.
        scale_range: factors on the patch's sides between which each image draws one.
        translation: each image draws its place with the box's centre within ±this share of the
            image's sides about the image's centre; replaces ``placement`` where it is given.
        target: the class that every patch of the file should cause, whatever the file names.
        targeted: False ignores the targets that the file names: any wrong class is a success.

    ImageNet-Patch's own example turns by ±45°, scales by 0.5 to 1 and shifts by ±0.2.
    """

    size_px: AtLeast1 | None = None
    placement: Placement = "random"
    margin_px: AtLeast0 = 0
    rotation_degrees: Degrees = 0.0
    scale_range: ScaleRange = (1.0, 1.0)
    translation: Annotated[float, Field(ge=0.0, lt=0.5)] | None = None
    target: AtLeast0 | None = None
    targeted: bool = True

    @property
    def affine(self) -> bool:
        """Whether each image shows the patch turned or scaled in its own way."""
        return self.rotation_degrees > 0 or self.scale_range != (1.0, 1.0)

    def as_record(self) -> dict[str, Any]:
        """All settings as JSON values, and ``placement`` in the words of a table."""
        record = super().as_record()
        if self.translation is not None:
            record["placement"] = f"within {100 * self.translation:g}% of the centre"
        if self.affine:
            low, high = self.scale_range
            turned = f"turned by up to {self.rotation_degrees:g}°, scaled {low:g} to {high:g}"
            record["placement"] = f"{record['placement']}, {turned}"
        return record


def placed_patch_sets(
    supplied: Supplied,
    settings: PlacingSettings,
    image_indices: NDArray[np.int64],
    image_size: tuple[int, int],
    *,
    classes: int,
    seed: int,
) -> list[PatchSet]:
    """A universal patch set for each patch of the file.

    An affine placement is rendered here, once, so that every engine gets the same bytes: the patch
    is interpolated linearly, its edge stays hard (``training.warping``), and each image has its own
    mask. The places, angles and scales depend on the seed and not on the patch: all patches of a
    file use the same ones.

    Args:
        image_indices: int64 N, of the images within their split.
        image_size: (H, W) in pixels.
        classes: number of classes of the networks that the patch is tried on.
        seed: of places, angles and scales.

    Raises:
        InputError: a target that is not a class, or a patch that does not fit into the image.
    """
    supplied = supplied.cut(image_size)
    targets = _targets(supplied, settings, classes)
    sets = []
    for number, target in enumerate(targets):
        patch, mask = _resized(supplied.patches[number], supplied.masks[number], settings.size_px)
        draw = generator_for(seed, "supplied")
        count = len(image_indices)
        if settings.affine:
            patches, masks = _rendered(patch, mask, count, settings, draw)
        else:
            patches, masks = np.where(mask, patch, 0)[None].astype(np.uint8), mask
        box = (masks.shape[-2], masks.shape[-1])
        positions = _positions(count, image_size, box, settings, draw)
        name = supplied.name if len(targets) == 1 else f"{supplied.name}-{number}"
        made = PatchSet(
            name=name,
            kind="universal",
            patch=patches,
            mask=masks,
            positions=positions,
            image_indices=image_indices,
            target=target,
            origin=PatchOrigin(
                settings=settings.as_record(),
                seed=seed,
                more={"supplied": {"file_sha256": supplied.sha256, "number": number}},
            ),
        )
        area = {"px": made.area_px, "share": made.area_share(*image_size)}
        sets.append(replace(made, origin=replace(made.origin, area=area)))
    return sets


def _targets(supplied: Supplied, settings: PlacingSettings, classes: int) -> tuple[int | None, ...]:
    targets: tuple[int | None, ...] = (settings.target,) * len(supplied.patches)
    if settings.target is None and settings.targeted and supplied.targets is not None:
        targets = supplied.targets
    wrong = sorted({target for target in targets if target is not None and target >= classes})
    if wrong:
        raise InputError(
            f"{supplied.name}: target {', '.join(map(str, wrong))} is not a class here, there are "
            f"0…{classes - 1}; name targets of this data set, or use --set targeted=false"
        )
    return targets


def _resized(
    patch: NDArray[np.uint8], mask: NDArray[np.bool_], size_px: AtLeast1 | None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    height, width = mask.shape
    if size_px is None or size_px == max(height, width):
        return patch, mask
    factor = size_px / max(height, width)
    new = (max(1, round(width * factor)), max(1, round(height * factor)))
    planes = [Image.fromarray(plane).resize(new, Image.Resampling.BILINEAR) for plane in patch]
    covered = Image.fromarray(mask.astype(np.uint8) * 255)
    hard = np.asarray(covered.resize(new, Image.Resampling.NEAREST)) > 0
    return np.stack([np.asarray(plane, np.uint8) for plane in planes]), hard


def _rendered(
    patch: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    count: int,
    settings: PlacingSettings,
    draw: torch.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The patch as it lies on each image, uint8 N×3×b×b, and its masks, bool N×b×b."""
    low, high = settings.scale_range
    drawn = torch.rand(2, count, generator=draw)
    scales = low + (high - low) * drawn[0]
    angles = math.radians(settings.rotation_degrees) * (2 * drawn[1] - 1)
    reach = math.hypot(*mask.shape) if settings.rotation_degrees else max(mask.shape)
    side = math.ceil(high * reach)
    # Where the parities differ, the patch's centre is half a pixel off the box's: leave room.
    side += any((side - length) % 2 for length in mask.shape)
    content, covered = _warped(patch, mask, side, scales, angles)
    masks = (covered > 0.5).numpy()
    pixels = content.round().clamp(0, 255).to(torch.uint8).numpy()
    return np.where(masks[:, None], pixels, 0).astype(np.uint8), masks


def _warped(
    patch: NDArray[np.uint8], mask: NDArray[np.bool_], side: int, scales: Tensor, angles: Tensor
) -> tuple[Tensor, Tensor]:
    """Content, float N×3×b×b, and cover, float N×b×b of 0 and 1, in the middle of a b×b box."""
    count = len(scales)
    places = torch.tensor([[(side - length) // 2 for length in mask.shape]]).expand(count, 2)
    flags = torch.from_numpy(mask)
    channels = len(patch)
    shape = (channels, side, side)
    shown = []
    for layer in (torch.from_numpy(patch).float(), torch.ones(channels, *mask.shape)):
        nothing = torch.zeros(count, *shape)
        shown.append(
            paste_warped(nothing, layer[None], flags, places, scales=scales, angles=angles)
        )
    return shown[0], shown[1][:, 0]


def _positions(
    count: int,
    image_size: tuple[int, int],
    box: tuple[int, int],
    settings: PlacingSettings,
    draw: torch.Generator,
) -> NDArray[np.int32]:
    if settings.translation is None:
        places = positions_for(
            settings.placement, count, image_size, box, draw, margin_px=settings.margin_px
        )
        return places.numpy().astype(np.int32)
    sides, boxes = torch.tensor(image_size), torch.tensor(box)
    shifts = (2 * torch.rand(count, 2, generator=draw) - 1) * settings.translation * sides
    places = torch.round((sides - boxes) / 2 + shifts).to(torch.int64)
    if bool((places < 0).any()) or bool((places + boxes > sides).any()):
        raise InputError(
            f"A patch in a box of {box[0]}×{box[1]} px, shifted by up to "
            f"{100 * settings.translation:g}% of the image's {image_size[0]}×{image_size[1]} px, "
            "leaves the image; make translation, scale_range or the size smaller."
        )
    return places.numpy().astype(np.int32)
