"""Which images a patch won on, kept as packed bits, so that results can be compared image by image.

Two runs over the same images are then a paired test and a list of images, without a second run of
either model. The form is that of the evaluation records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from .errors import InputError


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
    """Return flags (bool, N) as hex text, eight flags a byte, first flag in the highest bit."""
    return np.packbits(flags).tobytes().hex()


def unpack_bits(text: str, n: int) -> NDArray[np.bool_]:
    """Return the flags (bool, n) that :func:`pack_bits` made the text of.

    Raises:
        InputError: the text is no hex of n flags.
    """
    try:
        packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    except ValueError as error:
        raise InputError(f"Expected hexadecimal flags, got {text[:20]!r}….") from error
    if packed.size != (n + 7) // 8:
        raise InputError(f"Expected {n} flags in {(n + 7) // 8} bytes, got {packed.size} bytes.")
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
    """Indices within the split of the patched images: int64, N."""
    if outcomes["indices"] is not None:
        return np.asarray(outcomes["indices"], dtype=np.int64)
    return np.arange(outcomes["n"], dtype=np.int64) + outcomes["first_index"]
