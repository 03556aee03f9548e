"""The images that a patch won on, as packed bits, so that results can be compared image by image.

Two runs over the same images then give a paired test and a list of images, without a second run of
either model. The form is that of the evaluation records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

_MOST_IMAGES = 1 << 40


class Outcomes(TypedDict):
    """One bit per patched image, in the order of the patch set: hex of numpy's ``packbits``."""

    n: int
    first_index: int
    """Index within the split of the first patched image."""
    indices: list[int] | None
    """Indices within the split, when they are not ``first_index … first_index + n - 1``."""
    clean_correct: str
    patched_correct: str
    eligible: str
    """Correct without the patch and, for a targeted patch, not of the target's class."""
    success: str
    """The attack's success on an eligible image."""


def pack_bits(flags: NDArray[np.bool_]) -> str:
    """Return flags (bool, N) as hex text, eight flags per byte, first flag in the highest bit."""
    return np.packbits(flags).tobytes().hex()


def unpack_bits(text: str, n: int) -> NDArray[np.bool_]:
    """Return the flags (bool, n) that :func:`pack_bits` encoded in the text.

    Raises:
        InputError: the text is not a hex of n flags.
    """
    try:
        packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    except ValueError as error:
        raise InputError(f"expected hexadecimal flags, got {text[:20]!r}…") from error
    if packed.size != (n + 7) // 8:
        raise InputError(f"expected {n} flags in {(n + 7) // 8} bytes, got {packed.size} bytes")
    return np.unpackbits(packed, count=n).astype(np.bool_)


def outcomes_record(
    indices: NDArray[np.int64],
    *,
    clean_correct: NDArray[np.bool_],
    patched_correct: NDArray[np.bool_],
    eligible: NDArray[np.bool_],
    success: NDArray[np.bool_],
) -> Outcomes:
    """Return the outcomes of one patch as JSON values.

    Args:
        indices: int64 N, which images of the split were run.
        clean_correct: bool N, right without the patch.
        patched_correct: bool N, right with it.
        eligible: bool N, counts for the ASR.
        success: bool N, the patch won (on an eligible image).
    """
    first = int(indices[0]) if len(indices) else 0
    consecutive = np.array_equal(indices, np.arange(first, first + len(indices)))
    return Outcomes(
        n=len(indices),
        first_index=first,
        indices=None if consecutive else indices.tolist(),
        clean_correct=pack_bits(clean_correct),
        patched_correct=pack_bits(patched_correct),
        eligible=pack_bits(eligible),
        success=pack_bits(success),
    )


def image_indices(outcomes: Outcomes | Mapping[str, Any]) -> NDArray[np.int64]:
    """Indices within the split of the patched images: int64, N.

    Raises:
        InputError: they are not whole numbers of 0 or more, or N differs from that of the flags.
    """
    n, first, listed = outcomes["n"], outcomes["first_index"], outcomes["indices"]
    # Before anything is made of n: the flags of a file bound it.
    flags = len(outcomes["success"])
    if type(n) is not int or not n >= 0 or (n + 7) // 8 * 2 != flags:
        raise InputError(f"expected as many images as flags, got {n} and {flags} hex digits")
    numbers = listed if listed is not None else [first]
    if not isinstance(numbers, list) or any(type(one) is not int for one in numbers):
        raise InputError("expected the images' indices as whole numbers")
    if numbers and not 0 <= min(numbers) <= max(numbers) < _MOST_IMAGES:
        raise InputError(f"expected the images' indices as 0…{_MOST_IMAGES - 1:,}")
    if listed is None:
        return np.arange(n, dtype=np.int64) + first
    return np.array(listed, dtype=np.int64)
