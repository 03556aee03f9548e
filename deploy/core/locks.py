"""Locks that the system releases when their process ends in any way."""

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
except ImportError:  # a system without such locks: nothing is locked, nothing is cleared
    fcntl = None  # type: ignore[assignment]


def lock(descriptor: int, *, wait: bool = False) -> bool | None:
    """Lock an open file or folder exclusively for its process, until the descriptor is closed.

    Returns:
        False: another process has the lock. None: this system or file system has no locks.
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
    """Remove the files and folders of such names whose processes have ended: they are not locked.

    Code that makes one locks it and then checks that it :func:`is_there`: another process may have
    removed it as a leftover before the lock.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not name.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):  # owned by another user, or removed already
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
