"""Temporary folders that a killed process does not leave behind for good."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # a system without locks of this kind clears nothing
    fcntl = None  # type: ignore[assignment]

PREFIX = "qadtr-scratch-"
_YOUNG_S = 60.0


class Scratch:
    """A private folder, removed by :meth:`close`; making one removes those of killed processes.

    A living process holds a lock on its folder, which the system frees when the process dies.

    Attributes:
        folder: where it is.

    Raises:
        OSError: there is no place for temporary files.
    """

    def __init__(self) -> None:
        _clear()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = os.open(self.folder, os.O_RDONLY)
        _locked(lock)
        self._remove = weakref.finalize(self, _remove, self.folder, lock)

    def close(self) -> None:
        """Remove the folder and what is in it; again is no error."""
        self._remove()


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _clear() -> None:
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or gone
            lock = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                # A young one may be another process's that has not taken its lock yet.
                old = time.time() - os.fstat(lock).st_mtime > _YOUNG_S
                if old and os.fstat(lock).st_uid == os.getuid() and _locked(lock):
                    shutil.rmtree(place, ignore_errors=True)
            finally:
                os.close(lock)


def _locked(descriptor: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
