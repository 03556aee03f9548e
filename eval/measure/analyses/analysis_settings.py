"""What an analysis is told: frozen, keyword-only, strict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from deploy.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings:
    """Settings of all analyses; each reads its own.

    Attributes:
        bit_widths: to look at, widest first; 32 is float.
        stride_px: of the grid of places, in pixels.
        occluder_px: side of the grey square that covers a place, in pixels.
        shown: images whose maps are stored; the first of the sample, never chosen by outcome.
        batch_size: images at once.
        seed: of the random patches.

    Raises:
        InputError: a value outside its range.
    """

    bit_widths: tuple[int, ...]
    stride_px: int = 4
    occluder_px: int = 8
    shown: int = 1
    batch_size: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.bit_widths or len(set(self.bit_widths)) != len(self.bit_widths):
            raise InputError(
                f"analysis: expected different bit-widths, got {list(self.bit_widths)}"
            )
        for name in ("stride_px", "occluder_px", "shown", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"analysis: {name} must be at least 1, got {getattr(self, name)}")

    def as_record(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return {**asdict(self), "bit_widths": list(self.bit_widths)}


def grid(length_px: int, size_px: int, stride_px: int) -> list[int]:
    """Upper or left edges, in pixels, of a square that steps over an image: 0, stride, …; the
    last one lies against the far edge.

    Raises:
        InputError: the square is larger than the image.
    """
    last = length_px - size_px
    if last < 0:
        raise InputError(f"a square of {size_px} px does not fit an image of {length_px} px")
    return sorted({*range(0, last + 1, stride_px), last})
