"""Records of kind `examples`: a few images without and with a patch, with each model's predictions.

They are results like any other: made once by the evaluation, read by the report. The images are the
first of the patch set, never chosen by their outcome.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import TypedDict

from deploy.core.errors import InputError
from deploy.core.images import CHANNELS, GREY_OR_RGB
from deploy.core.patch_set import PatchSet
from deploy.core.records import records_so_far, write_record
from eval.measure.patch_images import require_images
from training.data.image_set import ImageSet
from training.record_types import Base64, Sha256, payloads
from training.validated import AtLeast0

KIND = "examples"
Predict = Callable[[NDArray[np.uint8]], NDArray[np.int64]]


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
    """An image, uint8 3×H×W RGB or 1×H×W grey, as a PNG file; transparent where `mask` (bool H×W)
    is False.

    Raises:
        InputError: another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in GREY_OR_RGB:
        raise InputError(
            f"Expected a picture as uint8 3×H×W or 1×H×W, got {image.dtype} {image.shape}."
        )
    pixels = np.broadcast_to(image, (CHANNELS, *image.shape[1:])).transpose(1, 2, 0)
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
    patch_sets: Sequence[PatchSet],
    models: Mapping[str, Predict],
    provenance: Mapping[str, Any],
    count: int = 6,
) -> None:
    """Write a record of the first `count` images of each patch set, unless `folder` has a record
    that shows the same.

    Args:
        models: by the name that the gallery prints, a function from uint8 N×3×H×W to classes N
            (an engine's `predict`, for instance).

    Raises:
        InputError: a patch set is for other images, or a model does not return classes.
    """
    known = payloads(records_so_far(folder, KIND), KIND, ExamplesRecord)
    for patch_set in patch_sets:
        payload = _examples(images, patch_set, models, count)
        if payload not in known:
            write_record(folder, KIND, payload, provenance)
            known.append(payload)


def _examples(
    images: ImageSet, patch_set: PatchSet, models: Mapping[str, Predict], count: int
) -> ExamplesRecord:
    if count < 1 or not models:
        raise InputError("Expected at least one image and one model to show examples of.")
    require_images(patch_set, images)
    own = images.images[patch_set.image_indices]
    indices = patch_set.image_indices[:count]
    clean = own[:count]
    # Pasted as one set, so that every patch is on its own image.
    patched = patch_set.paste_on(own)[:count]
    said = {
        name: (_classes(predict(clean), name, images), _classes(predict(patched), name, images))
        for name, predict in models.items()
    }
    items = [
        ExampleItem(
            index=int(index),
            label=images.classes[int(images.labels[index])],
            clean_png=base64.b64encode(png_bytes(clean[i])).decode("ascii"),
            patched_png=base64.b64encode(png_bytes(patched[i])).decode("ascii"),
            predictions=[
                PredictionOfModel(model=name, clean=before[i], patched=after[i])
                for name, (before, after) in said.items()
            ],
        )
        for i, index in enumerate(indices)
    ]
    about = ExampleImages(**images.about)
    return ExamplesRecord(patch=patch_set.name, images=about, items=items)


def _classes(predictions: NDArray[np.int64], model: str, images: ImageSet) -> list[str]:
    values = [int(value) for value in predictions]
    if any(not 0 <= value < len(images.classes) for value in values):
        raise InputError(
            f"{model} predicts classes {sorted(set(values))}, but {images.name} has "
            f"{len(images.classes)}."
        )
    return [images.classes[value] for value in values]


def read_examples(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, ExampleItem]]:
    """The examples among `records`, in their order, each with the name of its patch; the same
    picture in several records is one example, with the predictions of all their models.

    Raises:
        InputError: a record does not match the schema.
    """
    found: dict[tuple[object, ...], tuple[str, ExampleItem]] = {}
    for one in payloads(records, KIND, ExamplesRecord):
        for item in one["items"]:
            pictures = item["clean_png"], item["patched_png"]
            key = (one["patch"], item["index"], item["label"], *pictures)
            _, kept = found.setdefault(key, (one["patch"], {**item, "predictions": []}))
            kept["predictions"] += [p for p in item["predictions"] if p not in kept["predictions"]]
    return list(found.values())
