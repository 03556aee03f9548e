"""Locks that the system frees when their process dies, however it dies."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from pathlib import Path

try:
    import fcntl
except ImportError:  # a system without locks of this kind: nothing is locked, nothing is cleared
    fcntl = None  # type: ignore[assignment]


def lock(descriptor: int, *, wait: bool = False) -> bool | None:
    """Lock an open file or folder for its process alone, until the descriptor is closed.

    Returns:
        False: another one has the lock. None: this system, or this file system, has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def is_there(descriptor: int, path: Path) -> bool:
    """Whether the open file or folder is still what the path names."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def clear_leftovers(folder: Path, name: re.Pattern[str]) -> None:
    """Remove the files and folders of such names whose processes are dead: nobody locks them.

    Whoever makes one locks it and then looks whether it :func:`is_there`: it may have been taken
    for a leftover before the lock.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not name.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):  # somebody else's, or gone
                found = os.open(entry.path, flags)
                try:
                    status = os.fstat(found)
                    if lock(found) and status.st_uid == os.getuid():
                        if stat.S_ISDIR(status.st_mode):
                            shutil.rmtree(entry.path, ignore_errors=True)
                        else:
                            os.unlink(entry.path)  # noqa: PTH108 - a path that scandir gives
                finally:
                    os.close(found)
