"""Limits on the memory that one file may use: every reader checks its headers, then reads.

The numbers are far above what any file of this project needs, and below what a laptop can handle.
"""

from __future__ import annotations

from pathlib import Path

from .errors import InputError

MOST_JSON_BYTES = 1 << 26
"""Of one JSON or TOML file. What Python makes of it takes up to twenty times as much."""

MOST_NESTED = 100
"""Tables and lists inside of each other in one JSON or TOML file. Our own have ten."""

MOST_PIXELS = 1 << 26
"""Width times height of one image file, and of what it is resized to: 8,192 × 8,192."""

MOST_UNPACKED_BYTES = 1 << 28
"""What a compressed archive may unpack to, however small it is."""

MOST_UNPACKED_TIMES = 64
"""A larger archive may unpack to this many times its own bytes: photographs shrink by two or three,
and zeros, which shrink a thousandfold, are not a data set."""

MOST_CLASSES = 1 << 16
"""Of a data set; ImageNet-21k has 21,841."""

MOST_PICKLE_STEPS = 1 << 21
"""Operations of one pickle. A batch of CIFAR-10 has 60,000 of them."""


def require_file_size(path: Path, most_bytes: int) -> None:
    """Refuse a file that is too large before it is read; an inaccessible one is left to its reader.

    Raises:
        InputError: it has more bytes than that.
    """
    try:
        size = path.stat().st_size
    except OSError:
        return
    if size > most_bytes:
        raise InputError(
            f"{path} has {size:,} bytes, but at most {most_bytes:,} are read: it is not the "
            "expected kind of file, or it is damaged"
        )


def most_unpacked(archive_bytes: int) -> int:
    """The number of bytes that an archive of the given size may unpack to."""
    return max(MOST_UNPACKED_BYTES, MOST_UNPACKED_TIMES * archive_bytes)
