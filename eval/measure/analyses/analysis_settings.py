"""Settings of the analyses: frozen, keyword-only, strict."""

from __future__ import annotations

from deploy.core.errors import InputError
from training.validated import AtLeast1, BitWidths, Recorded, validated


@validated()
class AnalysisSettings(Recorded):
    """Settings of all analyses; each reads its own.

    Attributes:
        bit_widths: to analyse, widest first; 32 is float.
        stride_px: of the grid of places, in pixels.
        occluder_px: side of the grey square that covers a place, in pixels.
        shown: images whose maps are stored; the first of the sample, never chosen by outcome.
        seed: of the random patches.
    """

    bit_widths: BitWidths
    stride_px: AtLeast1 = 4
    occluder_px: AtLeast1 = 8
    shown: AtLeast1 = 1
    batch_size: AtLeast1 = 100
    seed: int = 0


def grid(length_px: int, size_px: int, stride_px: int) -> list[int]:
    """Upper or left edges, in pixels, of a square that steps over an image: 0, stride, …; at the
    last one the square touches the far edge.

    Raises:
        InputError: the square is larger than the image.
    """
    last = length_px - size_px
    if last < 0:
        raise InputError(f"a square of {size_px} px does not fit an image of {length_px} px")
    return sorted({*range(0, last + 1, stride_px), last})
