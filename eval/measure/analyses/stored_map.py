"""Small maps (a gradient, a feature map) inside a record: 8-bit grey PNGs with their range."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import TypedDict

from deploy.core.errors import InputError
from training.record_types import Base64

LARGEST_PX = 64
"""Longest side of a stored map; larger ones are averaged down by a whole factor."""


class StoredMap(TypedDict):
    """A map h×w in 256 steps: value = low + code / 255 · (high − low)."""

    png: Base64
    """Base64 of an 8-bit grey PNG of the codes."""
    low: float
    high: float


def store_map(
    values: NDArray[np.floating[Any]], low: float | None = None, high: float | None = None
) -> StoredMap:
    """The map as a record stores it.

    Args:
        values: finite floats h×w.
        low: value of code 0, below which everything is clipped; None takes the least.
        high: value of code 255; None takes the largest.

    Raises:
        InputError: it has another shape, or NaN or an infinity.
    """
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise InputError(f"Expected a finite map h×w to store, got shape {values.shape}.")
    factor = -(-max(values.shape) // LARGEST_PX)
    small = _averaged(values.astype(np.float64), factor)
    low = float(small.min()) if low is None else low
    high = float(small.max()) if high is None else high
    span = high - low
    codes = np.zeros(small.shape) if span <= 0 else (small - low) / span * 255.0
    buffer = io.BytesIO()
    pixels = np.rint(codes.clip(0, 255)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return StoredMap(
        png=base64.b64encode(buffer.getvalue()).decode("ascii"),
        low=float(f"{low:.6g}"),
        high=float(f"{high:.6g}"),
    )


def map_codes(stored: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The codes of a stored map, uint8 h×w.

    Raises:
        InputError: no map is stored there.
    """
    try:
        data = base64.b64decode(stored["png"], validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.mode != "L" or max(image.size) > LARGEST_PX:
                raise ValueError(f"mode {image.mode}, size {image.size}")
            return np.asarray(image, dtype=np.uint8)
    except (KeyError, TypeError, ValueError, OSError, binascii.Error) as error:
        raise InputError(f"A record's map is damaged ({error}); make the record again.") from error


def _averaged(values: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Means over factor×factor cells; a last cell that is cut off keeps its own mean."""
    if factor == 1:
        return values
    rows, columns = (np.arange(0, length, factor) for length in values.shape)
    summed = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    ones = np.add.reduceat(np.add.reduceat(np.ones_like(values), rows, axis=0), columns, axis=1)
    averaged: NDArray[np.float64] = summed / ones
    return averaged
