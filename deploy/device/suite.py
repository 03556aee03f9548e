"""The images, patches, golden data and lab predictions of a bundle, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.files import sha256_of_bytes
from ..core.images import INPUT_SCALE, INPUT_ZERO_POINT, check_images
from ..core.npz import read_npz
from ..core.pasting import paste
from ..core.patch_set import PatchSet, read_patch_set
from .bundle_reading import Bundle
from .evidence import distinct_images, least_changed_pixels
from .manifest import GOLDEN_LOGITS, PASTED_IMAGES, ModelFacts, PatchFacts

Classes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SuitePatch:
    """One patch set and the suite's images that it is pasted on.

    Attributes:
        facts: the manifest's.
        patch_set: as read.
        rows: int64 M, rows of the suite's images, in the order of the patch set.
        lab: int64 M, classes of the lab's network with the patch.
    """

    facts: PatchFacts
    patch_set: PatchSet
    rows: NDArray[np.int64]
    lab: Classes

    def paste(self, images: NDArray[np.uint8], which: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the patch on some of its images.

        Args:
            images: uint8 N×3×H×W, all of the suite.
            which: int64 K, entries of ``rows``.
        """
        return paste_some(self.patch_set, images[self.rows[which]], which)

    def least_changed(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return int64 M: pixels of each of its images that it must visibly change, for images
        uint8 N×3×H×W."""
        area = self.patch_set.mask.sum(axis=(-2, -1), dtype=np.int64)
        height, width = images.shape[2:]
        return least_changed_pixels(np.broadcast_to(area, len(self.rows)), height, width)


@dataclass(frozen=True, kw_only=True, eq=False)
class Suite:
    """The data that a model is measured on.

    Attributes:
        images: uint8 N×3×H×W.
        indices: int64 N, which images of their split they are, ascending.
        labels: int64 N.
        lab_clean: int64 N, classes of the lab's network without a patch.
        patches: in the manifest's order.
        classes: their names.
        manifest_sha256: of the bundle.
    """

    images: NDArray[np.uint8]
    indices: NDArray[np.int64]
    labels: Classes
    lab_clean: Classes
    patches: tuple[SuitePatch, ...]
    classes: tuple[str, ...]
    manifest_sha256: str

    @cached_property
    def distinct(self) -> NDArray[np.bool_]:
        """bool N, False for an image that looks like an earlier one."""
        return distinct_images(self.images)


def paste_some(
    patch_set: PatchSet, images: NDArray[np.uint8], which: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return ``images`` (uint8 K×3×H×W) with the patch for the entries ``which`` (int64 K)."""
    patch = patch_set.patch if len(patch_set.patch) == 1 else patch_set.patch[which]
    mask = patch_set.mask if patch_set.mask.ndim == 2 else patch_set.mask[which]
    return paste(images, patch, mask, patch_set.positions[which])


def pasted_sha256(patch_set: PatchSet, images: NDArray[np.uint8]) -> str:
    """Return the hash of the first pasted images.

    Args:
        patch_set: for M images.
        images: uint8 M×3×H×W, those images in the order of the set.
    """
    first = np.arange(min(PASTED_IMAGES, len(patch_set.image_indices)))
    return sha256_of_bytes(paste_some(patch_set, images[first], first).tobytes())


def check_preprocessing(bundle: Bundle) -> None:
    """Check that the bundle's preprocessing is the one of this code.

    Raises:
        InputError: another zero point or scale of the image bytes.
    """
    given = bundle.manifest.raw["preprocessing"]
    if (given["zero_point"], given["scale"]) != (INPUT_ZERO_POINT, INPUT_SCALE):
        raise InputError(
            f"the bundle's images have zero point {given['zero_point']} and scale "
            f"{given['scale']}, but the bytes that this validator feeds have {INPUT_ZERO_POINT} "
            f"and {INPUT_SCALE}"
        )


def read_suite(bundle: Bundle) -> Suite:
    """Read images, patches and lab predictions, and paste the first images of each patch.

    Raises:
        InputError: an array is missing or does not fit, a patch is not the one that the manifest
            describes, or pasting gives other bytes than in the lab.
    """
    manifest = bundle.manifest
    arrays = _arrays(bundle.file(manifest.images["file"]), {"images", "labels", "indices"})
    images = check_images(arrays["images"], expected_shape=manifest.input_shape)
    count = len(images)
    if count != manifest.images["n"]:
        raise InputError(f"the manifest has {manifest.images['n']} images, the bundle has {count}")
    labels = _classes(arrays["labels"], count, len(manifest.classes), "labels")
    indices = arrays["indices"]
    if (
        indices.dtype != np.int64
        or indices.shape != (count,)
        or indices.min() < 0
        or (np.diff(indices) <= 0).any()
    ):
        raise InputError("expected the images' indices as ascending int64, one per image")
    wanted = {"clean", *(f"patched-{i}" for i in range(len(manifest.patches)))}
    lab = _arrays(bundle.file(manifest.lab["file"]), wanted)
    classes = len(manifest.classes)
    patches = []
    for number, facts in enumerate(manifest.patches):
        path = bundle.file(facts.file)
        patch_set = read_patch_set(path, max_bytes=path.stat().st_size)
        _check_patch(facts, patch_set, classes)
        rows = np.searchsorted(indices, patch_set.image_indices)
        if rows.max() >= count or (indices[rows] != patch_set.image_indices).any():
            raise InputError(f"{facts.name} is for images that the bundle does not hold")
        predicted = _classes(lab[f"patched-{number}"], len(rows), classes, f"patched-{number}")
        if pasted_sha256(patch_set, images[rows[:PASTED_IMAGES]]) != facts.pasted_sha256:
            raise InputError(
                f"pasting {facts.name} gives other bytes on this machine than in the lab: the "
                "patch was replaced, or the pasting is another one"
            )
        patches.append(SuitePatch(facts=facts, patch_set=patch_set, rows=rows, lab=predicted))
    return Suite(
        images=images,
        indices=indices,
        labels=labels,
        lab_clean=_classes(lab["clean"], count, classes, "clean"),
        patches=tuple(patches),
        classes=manifest.classes,
        manifest_sha256=bundle.manifest_sha256,
    )


def read_golden(
    bundle: Bundle, model: ModelFacts
) -> tuple[NDArray[np.uint8], NDArray[np.float32], dict[str, NDArray[np.uint8]]]:
    """Return the golden inputs (uint8 N×3×H×W), one model's logits (float32 N×classes), and the
    codes (uint8 N×…) by tensor name.

    Raises:
        InputError: an array is missing or does not fit.
    """
    manifest = bundle.manifest
    tensors = list(manifest.golden["tensors"])
    if len(set(tensors)) != len(tensors):
        raise InputError("the manifest lists a golden tensor twice")
    names = [f"codes-{i}" for i in range(len(tensors))]
    every = {one.golden_logits for one in manifest.models.values()} | {GOLDEN_LOGITS}
    arrays = _arrays(bundle.file(manifest.golden["file"]), {"inputs", *every, *names})
    inputs = check_images(arrays["inputs"], expected_shape=manifest.input_shape)
    count = manifest.golden["n"]
    logits = arrays[model.golden_logits]
    fits = logits.dtype == np.float32 and logits.shape == (count, len(manifest.classes))
    if len(inputs) != count or not fits or not np.isfinite(logits).all():
        raise InputError(
            f"expected golden inputs and finite float32 logits for {count} images and "
            f"{len(manifest.classes)} classes, got {inputs.shape} and {logits.dtype} {logits.shape}"
        )
    for name in names:
        if arrays[name].dtype != np.uint8 or arrays[name].shape[:1] != (count,):
            raise InputError(f"expected golden {name} as uint8 for {count} images")
    return inputs, logits, {tensor: arrays[f"codes-{i}"] for i, tensor in enumerate(tensors)}


def _arrays(path: Path, wanted: set[str]) -> dict[str, NDArray[Any]]:
    # Our archives are not compressed: arrays that take more than the file are not ours.
    arrays = read_npz(path, max_bytes=path.stat().st_size)
    if set(arrays) != wanted:
        raise InputError(f"{path.name} has arrays {sorted(arrays)}, expected {sorted(wanted)}")
    return arrays


def _classes(array: NDArray[Any], count: int, classes: int, name: str) -> Classes:
    if array.dtype != np.int64 or array.shape != (count,):
        raise InputError(f"expected {name} as int64 of {count}, got {array.dtype} {array.shape}")
    if array.min() < 0 or array.max() >= classes:
        raise InputError(f"expected {name} of 0…{classes - 1}, got {array.min()}…{array.max()}")
    return array


def _check_patch(facts: PatchFacts, patch_set: PatchSet, classes: int) -> None:
    if (patch_set.kind, patch_set.target) != (facts.kind, facts.target):
        raise InputError(
            f"{facts.name} is {patch_set.kind} with target {patch_set.target}, the manifest "
            f"states {facts.kind} and {facts.target}"
        )
    if patch_set.target is not None and patch_set.target >= classes:
        raise InputError(
            f"{facts.name} has the target {patch_set.target}, but there are {classes} classes"
        )
