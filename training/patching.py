"""Pasting a patch so that gradients pass, and the white-box patch step.

Both the training of a defense and the attacks of the evaluation call these functions, so that a
network is hardened against the same step that later attacks it. Shapes and ranges throughout:

* ``pixels``: float, N×3×H×W, pixel values 0…255 (not normalised);
* ``patch``: float, P×3×h×w, pixel values 0…255; P = 1 is one patch for all images, P = N one per
  image, and with ``owners`` (int64, N) image i gets patch ``owners[i]``;
* ``mask``: bool, h×w, True where the patch covers the image;
* ``positions``: any integer type, N×2, the (top, left) corner of the patch's box per image.

On integer values ``paste`` equals ``deploy.core.pasting.paste``, the one definition of pasting;
a test compares the two.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from deploy.core.errors import InputError

_Number = TypeVar("_Number", float, Tensor)

PIXEL_LOW = 0.0
PIXEL_HIGH = 255.0


def square_mask(size_px: int) -> Tensor:
    """The full square: bool, size_px×size_px, all True."""
    _check_size(size_px)
    return torch.ones(size_px, size_px, dtype=torch.bool)


def circle_mask(size_px: int) -> Tensor:
    """The pixels whose centre lies in the circle inscribed in the box: bool, size_px×size_px."""
    _check_size(size_px)
    offsets = torch.arange(size_px, dtype=torch.float64) - (size_px - 1) / 2
    squared_distance = offsets[:, None] ** 2 + offsets[None, :] ** 2
    return squared_distance <= (size_px / 2) ** 2


def random_positions(
    count: int,
    image_size: tuple[int, int],
    patch_size: tuple[int, int],
    generator: torch.Generator,
    *,
    central: bool = False,
) -> Tensor:
    """Positions, int64 count×2 on the generator's device, drawn uniformly over every place where
    the whole box fits, or over the middle third of these on each axis where ``central``.

    Raises:
        InputError: the patch is larger than the image.
    """
    columns = []
    for limit in _free_places(image_size, patch_size):
        outer = limit // 3 if central else 0
        places = (outer, limit - outer)
        columns.append(
            torch.randint(*places, (count,), generator=generator, device=generator.device)
        )
    return torch.stack(columns, dim=1)


def paste(
    pixels: Tensor,
    patch: Tensor,
    mask: Tensor,
    positions: Tensor,
    *,
    owners: Tensor | None = None,
) -> Tensor:
    """Images with the masked pixels of the patch in place of their own.

    The gradient reaches the patch (summed over the images that share one) and the uncovered pixels.

    Returns a new tensor, N×3×H×W, of the type of ``pixels``.

    Raises:
        InputError: shapes that do not belong together, or a box that leaves the image.
    """
    _check(pixels, mask, positions, patch, owners)
    images, rows, columns, (mask_rows, mask_columns) = _covered(pixels, mask, positions)
    covering = patch[:, :, mask_rows, mask_columns].transpose(1, 2)
    if owners is not None:
        covering = covering.index_select(0, owners.to(patch.device))
    pasted = pixels.clone()
    # Integer indices on both sides of a slice put the channels last: N×K×3.
    pasted[images, :, rows, columns] = covering.to(pixels.dtype).expand(pixels.shape[0], -1, -1)
    return pasted


def patch_gradient(
    gradient: Tensor,
    mask: Tensor,
    positions: Tensor,
    *,
    patches: int | None = None,
    owners: Tensor | None = None,
) -> Tensor:
    """The gradient of each patch, gathered from the gradient of the pasted images.

    This is what autograd would give for ``paste``'s patch, without the graph: a training step that
    has the gradient of its input already needs no second backward pass.

    Args:
        gradient: float, N×3×H×W, the loss's gradient with respect to the *pasted* images.
        patches: P. None or N: one gradient per image; 1: their sum; any other number needs
            ``owners``, and the gradients of the images of one patch are summed.

    Returns float, P×3×h×w, zero outside the mask.
    """
    count = gradient.shape[0]
    _check(gradient, mask, positions, None, owners)
    images, rows, columns, (mask_rows, mask_columns) = _covered(gradient, mask, positions)
    gathered = gradient.new_zeros(count, gradient.shape[1], *mask.shape)
    gathered[:, :, mask_rows, mask_columns] = gradient[images, :, rows, columns].transpose(1, 2)
    if owners is not None:
        if patches is None:
            raise InputError("patch_gradient with owners needs patches, the number of patches")
        summed = gathered.new_zeros(patches, *gathered.shape[1:])
        return summed.index_add_(0, owners.to(gathered.device), gathered)
    if patches is None or patches == count:
        return gathered
    if patches == 1:
        return gathered.sum(dim=0, keepdim=True)
    raise InputError(
        f"{patches} patches for {count} images; give 1, {count}, or owners that state which "
        "image has which patch"
    )


def step_along_sign(
    patch: Tensor,
    gradient: Tensor,
    step_size: float | Tensor,
    *,
    velocity: Tensor | None = None,
    momentum: float = 0.0,
) -> Tensor:
    """One step of signed ascent: ``clamp(patch + step_size · sign(direction), 0, 255)``, new.

    The direction is the gradient or, with a velocity v, MI-FGSM's accumulated gradient:

        v ← momentum · v + gradient / mean|gradient|    (the mean over each patch)

    Where the direction is zero (as outside of a patch's mask) the pixel stays.

    Args:
        patch: float P×3×h×w, values 0…255.
        gradient: float P×3×h×w, of the loss at the patch.
        step_size: in pixel values; positive raises the loss, negative lowers it; a number, or float
            P×1×1×1 for one of each patch.
        velocity: float P×3×h×w, changed in place; zeros before the first step.
        momentum: share of the old velocity that is kept.

    References: Goodfellow et al., "Explaining and harnessing adversarial examples" (ICLR 2015);
    Dong et al., "Boosting adversarial attacks with momentum" (CVPR 2018); Rao, Stutz, Schiele,
    "Adversarial training against location-optimized adversarial patches" (ECCV-W 2020), the step
    inside a patch.
    """
    if velocity is not None:
        # A zero gradient (no image counts any more) leaves the direction unchanged.
        scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
        gradient = velocity.mul_(momentum).add_(gradient / scale)
    return (patch.detach() + step_size * gradient.sign()).clamp_(PIXEL_LOW, PIXEL_HIGH)


LAST_STEP_SHARE = 0.1
"""Of the first step's size, where steps fall."""


def falling_step_size(first: float, done: _Number, steps: int) -> _Number:
    """The size of the step after ``done`` of ``steps``: linearly from ``first`` to a tenth."""
    return first * (1.0 - (1.0 - LAST_STEP_SHARE) * (done / max(steps - 1, 1)))


def _covered(
    pixels: Tensor, mask: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Index arrays of the covered pixels: images N×1, rows and columns N×K, and the mask's own."""
    device = pixels.device
    mask_rows, mask_columns = mask.to(device).nonzero(as_tuple=True)
    places = positions.to(device=device, dtype=torch.int64)
    images = torch.arange(pixels.shape[0], device=device)[:, None]
    rows = places[:, :1] + mask_rows
    columns = places[:, 1:] + mask_columns
    return images, rows, columns, (mask_rows, mask_columns)


def _free_places(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    height, width = (image - patch + 1 for image, patch in zip(image_size, patch_size, strict=True))
    if height < 1 or width < 1:
        raise InputError(
            f"a patch of {patch_size[0]}×{patch_size[1]} px does not fit into an image of "
            f"{image_size[0]}×{image_size[1]} px; make it smaller"
        )
    return height, width


def _check_size(size_px: int) -> None:
    if size_px < 1:
        raise InputError(f"expected a patch of at least 1 px, got {size_px}")


def _check(
    pixels: Tensor, mask: Tensor, positions: Tensor, patch: Tensor | None, owners: Tensor | None
) -> None:
    count = pixels.shape[0]
    if pixels.ndim != 4 or mask.ndim != 2 or mask.dtype != torch.bool:
        raise InputError(
            f"expected images N×C×H×W and a boolean mask h×w, got {tuple(pixels.shape)} and "
            f"{tuple(mask.shape)} of {mask.dtype}"
        )
    if positions.shape != (count, 2) or positions.is_floating_point():
        raise InputError(
            f"expected integer positions {count}×2 (top, left), got {tuple(positions.shape)} of "
            f"{positions.dtype}"
        )
    if patch is not None:
        shape = (pixels.shape[1], *mask.shape)
        if patch.ndim != 4 or tuple(patch.shape[1:]) != shape:
            raise InputError(f"expected a patch P×{shape}, got {tuple(patch.shape)}")
        if owners is None and patch.shape[0] not in (1, count):
            raise InputError(
                f"{patch.shape[0]} patches for {count} images; give 1, {count}, or owners"
            )
    if owners is not None and owners.shape != (count,):
        raise InputError(f"expected owners of shape ({count},), got {tuple(owners.shape)}")
    places = _free_places((pixels.shape[2], pixels.shape[3]), (mask.shape[0], mask.shape[1]))
    if count:
        # A negative index would wrap around silently, so the bounds are checked here.
        lowest, highest = int(positions.min()), positions.amax(dim=0).tolist()
        if lowest < 0 or highest[0] >= places[0] or highest[1] >= places[1]:
            raise InputError(
                f"expected positions inside the image, top 0…{places[0] - 1} and left "
                f"0…{places[1] - 1}, got {lowest} to {tuple(highest)}"
            )
