"""Atomic writes, whole reads and hashes of files."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import sys
from pathlib import Path

from .errors import InputError
from .locks import clear_leftovers, is_there, lock

STDOUT = Path("-")
"""What an output is called that goes to standard output."""

_HASH_CHUNK_BYTES = 1 << 20


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the whole new one.

    Missing parent folders are made. A killed process can leave a hidden ``.NAME.*.tmp`` in the same
    folder, never a half-written ``path``; the next write of ``path`` removes it. A link is kept and
    its target is written; a device or a pipe is written to, never replaced.

    Raises:
        InputError: the file cannot be written there.
    """
    path = Path(path)
    if is_stream(path):
        _write_through(path, data)
        return
    try:
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        if place.is_symlink():
            raise OSError(errno.ELOOP, "a loop of links")
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise NotADirectoryError(errno.ENOTDIR, "its parent is a file, not a folder") from error
        temporary, descriptor = _temporary(place)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(place)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        # strerror: the whole text would name the temporary file.
        reason = error.strerror or error
        raise InputError(f"cannot write {path}: {reason}; choose a writable place") from error


def _temporary(path: Path) -> tuple[Path, int]:
    """A new file in the folder of ``path``, locked while it is written; files of dead processes are
    removed first."""
    clear_leftovers(
        path.parent, re.compile(rf"\.{re.escape(path.name)}\.[0-9]+-[0-9a-f]{{8}}\.tmp")
    )
    while True:
        # Not with_name, which fails for a path without a name, such as ".".
        # Not tempfile: its files are 0600 whatever the umask says.
        temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        lock(descriptor, wait=True)
        if is_there(descriptor, temporary):
            return temporary, descriptor
        os.close(descriptor)


def write_to(path: Path, data: bytes) -> None:
    """Write as :func:`write_atomic`, to standard output where the path is ``-``.

    Raises:
        InputError: the place is not writable.
    """
    if path != STDOUT:
        write_atomic(path, data)
        return
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError) as error:  # broken, closed, not there
        raise InputError(f"cannot write to standard output: {error}") from error


def same_place(first: Path, second: Path) -> bool:
    """Whether writing to the first overwrites the second; a device may be written to many times."""
    if STDOUT in (first, second):
        return first == second
    if is_stream(first):
        return False
    try:
        return first.samefile(second)
    except OSError:  # one does not exist yet
        return os.path.realpath(first) == os.path.realpath(second)  # links in a loop are no error


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe or a socket, or names an open file of this process."""
    if str(path).startswith(("/dev/fd/", "/dev/std", "/proc/")):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _write_through(path: Path, data: bytes) -> None:
    try:
        # Not blocking while it is opened: a pipe without a reader is an error, not a wait.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
        os.set_blocking(descriptor, True)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write to {path}: {reason}; choose another place") from error


def read_bytes(path: Path) -> bytes:
    """Return the bytes of ``path``.

    Raises:
        InputError: the file is missing or unreadable.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 lower-case hexadecimal digits.

    Raises:
        InputError: the file is missing or unreadable.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            while chunk := stream.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    return digest.hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data``, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
