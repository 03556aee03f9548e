"""Images inside the page: PNG as data URIs, so that the report is one file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.core.errors import InputError
from deploy.core.patch_set import PatchSet, read_patch_set
from eval.report.html import Html, tag

PER_IMAGE_SHOWN = 6
"""Of a per-image patch set, so many patches are shown: the first ones."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One figure of the gallery.

    Attributes:
        pngs: PNG files, shown side by side.
        alts: for each the text for those who do not see it.
        title: what it is, in a few words.
        detail: the rest.
    """

    pngs: tuple[bytes, ...]
    alts: tuple[str, ...]
    title: str
    detail: str = ""


def png_bytes(image: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None) -> bytes:
    """An image, uint8 3×H×W RGB, as a PNG file; transparent where `mask` (bool H×W) is False.

    Raises:
        InputError: another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"Expected a picture as uint8 3×H×W, got {image.dtype} {image.shape}.")
    pixels = image.transpose(1, 2, 0)
    if mask is not None and not mask.all():
        alpha = np.where(mask, 255, 0).astype(np.uint8)
        pixels = np.concatenate([pixels, alpha[..., None]], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def image_tag(png: bytes, alt: str) -> Html:
    """The picture as an element that needs no other file."""
    uri = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return tag("img", src=uri, alt=alt)


def patch_pictures(folder: Path) -> tuple[Picture, ...]:
    """A figure for every patch set of a folder (NAME.npz with NAME.json), by name.

    Raises:
        InputError: a patch set is damaged.
    """
    return tuple(_patch_picture(read_patch_set(path)) for path in sorted(folder.glob("*.npz")))


def _patch_picture(patch_set: PatchSet) -> Picture:
    shown = patch_set.patch[:PER_IMAGE_SHOWN]
    height, width = patch_set.size_px
    masks = np.broadcast_to(patch_set.mask, (len(patch_set.patch), height, width))
    detail = f"{patch_set.kind}, {height}×{width} px, {patch_set.area_px} px under the mask"
    if patch_set.kind == "per-image":
        detail += f"; the first {len(shown)} of {len(patch_set.patch)} patches, one an image"
        alts = tuple(
            f"Patch {patch_set.name} for image {index}"
            for index in patch_set.image_indices[: len(shown)]
        )
    elif len(patch_set.patch) > 1:
        detail += f"; one patch, as it lies on the first {len(shown)} of {len(patch_set.patch)}"
        alts = tuple(
            f"Patch {patch_set.name} as it lies on image {index}"
            for index in patch_set.image_indices[: len(shown)]
        )
    else:
        alts = (f"Patch {patch_set.name}, the same for every image",)
    return Picture(
        pngs=tuple(png_bytes(patch, mask) for patch, mask in zip(shown, masks, strict=False)),
        alts=alts,
        title=patch_set.name,
        detail=detail,
    )
