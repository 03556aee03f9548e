"""The names of bit-widths: 32 means the network without quantization."""

from __future__ import annotations

FLOAT = 32


def bits_label(bit_width: int) -> str:
    """ "float" for 32, else the number as text."""
    return "float" if bit_width == FLOAT else str(bit_width)


def bits_words(bit_width: int) -> str:
    """ "float" for 32, else such as "4 bits"."""
    return "float" if bit_width == FLOAT else f"{bit_width} bits"
