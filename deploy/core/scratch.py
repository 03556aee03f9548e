"""Temporary folders that are removed even after their process was killed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from pathlib import Path

from .locks import clear_leftovers, is_there, lock

PREFIX = "qadtr-scratch-"


class Scratch:
    """A private folder, removed by :meth:`close` or at the end of a ``with``; that yields its path.

    Making one removes folders that killed processes left in the same place: a running process holds
    a lock on its folder, which the system releases when the process ends.

    Args:
        prefix: of the folder's name; only folders of this prefix are removed.
        place: the folder to make it in; None: the system's place for temporary files.

    Attributes:
        folder: its path.

    Raises:
        OSError: there is no such place, or it is not writable.
    """

    def __init__(self, prefix: str = PREFIX, place: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir()) if place is None else Path(place)
        clear_leftovers(parent, re.compile(rf"{re.escape(prefix)}[a-z0-9_]{{8}}"))
        while True:
            self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            try:
                held = os.open(self.folder, os.O_RDONLY)
            except FileNotFoundError:  # removed as a leftover before it was locked
                continue
            lock(held, wait=True)
            if is_there(held, self.folder):
                break
            os.close(held)
        self._remove = weakref.finalize(self, _remove, self.folder, held)

    def close(self) -> None:
        """Remove the folder and its contents; a second call is not an error."""
        self._remove()

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *error: object) -> None:
        self.close()


def _remove(folder: Path, held: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(held)
