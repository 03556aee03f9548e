"""Patches, and images without and with them, as figures."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.core.html import Html, join, tag
from deploy.core.patch_set import PatchSet
from deploy.core.table import Cell, Table
from eval.measure.examples import ExampleItem, png_bytes
from eval.report.document import captioned, soft
from eval.report.pictures import image_tag

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


def patch_picture(patch_set: PatchSet) -> Picture:
    """The figure of a patch set."""
    shown = patch_set.patch[:PER_IMAGE_SHOWN]
    height, width = patch_set.size_px
    masks = np.broadcast_to(patch_set.mask, (len(patch_set.patch), height, width))
    detail = f"{patch_set.kind}, {height}×{width} px, {patch_set.area_px} px under the mask"
    if patch_set.kind == "per-image":
        detail += f"; the first {len(shown)} of {len(patch_set.patch)} patches, one for each image"
        alts = tuple(
            f"Patch {patch_set.name} for image {index}"
            for index in patch_set.image_indices[: len(shown)]
        )
    elif len(patch_set.patch) > 1:
        detail += f"; one patch, placed on the first {len(shown)} of {len(patch_set.patch)}"
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


def gallery(pictures: Sequence[Picture], examples: Sequence[tuple[str, ExampleItem]]) -> Html:
    """Both kinds of figures under a heading each, examples with the name of their patch; nothing
    where there are none."""
    parts: list[Html] = []
    if pictures:
        figures = [_figure(picture) for picture in pictures]
        parts += [tag("h3", "Patches"), tag("div", figures, class_="gallery")]
    if examples:
        parts += [
            tag("h3", "Images without and with a patch"),
            soft("The first images of each patch set; they are not chosen by outcome."),
            tag("div", [_example(*one) for one in examples], class_="gallery"),
        ]
    return join(parts)


def _figure(picture: Picture) -> Html:
    images = [image_tag(p, alt) for p, alt in zip(picture.pngs, picture.alts, strict=True)]
    return captioned(picture.title, picture.detail, tag("div", images, class_="images"))


def _example(patch: str, example: ExampleItem) -> Html:
    label = example["label"]
    what = f"image {example['index']}: {label}"
    said = Table(
        columns=("model", "without", "with"),
        rows=[
            [one["model"], *(_answer(word, label) for word in (one["clean"], one["patched"]))]
            for one in example["predictions"]
        ],
    )
    return captioned(
        what,
        f"patch {patch}",
        tag(
            "div",
            image_tag(b64decode(example["clean_png"]), f"Without the patch: {what}"),
            image_tag(b64decode(example["patched_png"]), f"With the patch {patch}: {what}"),
            class_="images",
        ),
        said.html(frame=""),
    )


def _answer(said: str, truth: str) -> Cell:
    # Not by colour alone: a wrong answer is marked by a sign, too.
    return Cell(said) if said == truth else Cell(f"✗ {said}", kind="fooled")
