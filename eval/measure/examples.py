"""Records of kind `examples`: a few images without and with a patch, and what each model says.

They are results like any other: made once by the evaluation, read by the report. The images are the
first of the patch set, never chosen by their outcome.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import TypedDict

from deploy.core.errors import InputError
from deploy.core.patch_set import PatchSet
from deploy.core.records import write_record
from training.data.image_set import ImageSet
from training.record_types import Base64, Sha256, payloads
from training.validated import AtLeast0

KIND = "examples"
Predict = Callable[[NDArray[np.uint8]], NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What one model says without and with the patch (class names)."""

    model: str
    clean: str
    patched: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image: PNG without and with the patch, its true class, and the predictions."""

    patch_name: str
    index: int
    label: str
    clean_png: bytes
    patched_png: bytes
    predictions: tuple[Prediction, ...]


class PredictionOfModel(TypedDict):
    """Names of classes."""

    model: str
    clean: str
    patched: str


class ExampleItem(TypedDict):
    """One image."""

    index: AtLeast0
    """Within the split."""
    label: str
    clean_png: Base64
    patched_png: Base64
    predictions: list[PredictionOfModel]


class ExampleImages(TypedDict):
    """Where the images are from."""

    name: str
    split: str
    digest: Sha256


class ExamplesRecord(TypedDict):
    """The payload of a record of kind ``examples``."""

    patch: str
    images: ExampleImages
    items: list[ExampleItem]


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


def write_examples(
    folder: Path,
    *,
    images: ImageSet,
    patch_set: PatchSet,
    models: Mapping[str, Predict],
    provenance: Mapping[str, Any],
    count: int = 6,
) -> Path:
    """Write the record of the first `count` images of a patch set.

    Args:
        folder: the run's records.
        images: the split that the patch set belongs to.
        patch_set: what to paste.
        models: by the name that the gallery prints, a function from uint8 N×3×H×W to classes N
            (an engine's `predict`, for instance).
        provenance: from `deploy.core.records.provenance`.
        count: images to show, at least 1.

    Returns:
        The record's path.

    Raises:
        InputError: the patch set is for other images, or a model answers with something else.
    """
    if count < 1 or not models:
        raise InputError("Expected at least one image and one model to show examples of.")
    last = int(patch_set.image_indices.max())
    if last >= len(images):
        raise InputError(
            f"{patch_set.name} is for image {last}, but {images.name} ({images.split}) has "
            f"{len(images)} images."
        )
    indices = patch_set.image_indices[:count]
    clean = images.images[indices]
    # Pasted as one set, so that every patch lands on its own image.
    patched = patch_set.paste_on(images.images[patch_set.image_indices])[: len(indices)]
    said = {
        name: (_classes(predict(clean), name, images), _classes(predict(patched), name, images))
        for name, predict in models.items()
    }
    items = [
        {
            "index": int(index),
            "label": images.classes[int(images.labels[index])],
            "clean_png": base64.b64encode(png_bytes(clean[i])).decode("ascii"),
            "patched_png": base64.b64encode(png_bytes(patched[i])).decode("ascii"),
            "predictions": [
                {"model": name, "clean": before[i], "patched": after[i]}
                for name, (before, after) in said.items()
            ],
        }
        for i, index in enumerate(indices)
    ]
    payload = {
        "patch": patch_set.name,
        "images": images.about,
        "items": items,
    }
    return write_record(folder, KIND, payload, provenance)


def _classes(predictions: NDArray[np.int64], model: str, images: ImageSet) -> list[str]:
    values = [int(value) for value in predictions]
    if any(not 0 <= value < len(images.classes) for value in values):
        raise InputError(
            f"{model} predicts classes {sorted(set(values))}, but {images.name} has "
            f"{len(images.classes)}."
        )
    return [images.classes[value] for value in values]


def read_examples(records: Iterable[Mapping[str, Any]]) -> tuple[Example, ...]:
    """The examples among `records`, in their order; the same picture of several records is one
    example, with what all their models say.

    Raises:
        InputError: a record is not as the schema says.
    """
    found = payloads(records, KIND, ExamplesRecord)
    return _merged(_example(one["patch"], item) for one in found for item in one["items"])


def _merged(examples: Iterable[Example]) -> tuple[Example, ...]:
    found: dict[tuple[object, ...], Example] = {}
    for one in examples:
        key = (one.patch_name, one.index, one.label, one.clean_png, one.patched_png)
        before = found[key].predictions if key in found else ()
        said = dict.fromkeys((*before, *one.predictions))
        found[key] = replace(one, predictions=tuple(said))
    return tuple(found.values())


def _example(patch_name: str, item: ExampleItem) -> Example:
    return Example(
        patch_name=patch_name,
        index=item["index"],
        label=item["label"],
        clean_png=base64.b64decode(item["clean_png"]),
        patched_png=base64.b64decode(item["patched_png"]),
        predictions=tuple(Prediction(**one) for one in item["predictions"]),
    )
