"""Download an official archive, check it, and only then give it its name."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.core.errors import InputError
from deploy.core.files import sha256_of
from deploy.core.locks import clear_leftovers, lock

_log = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file on the network (``url``, http or https), with its name on disk, its expected SHA-256
    (hex) and its exact length."""

    filename: str
    url: str
    sha256: str
    size_bytes: int


# https://www.cs.toronto.edu/~kriz/cifar.html gives the MD5 c58f30108f718f92721af3b95e74349a; the
# SHA-256 of the same file is the one that Keras checks.
CIFAR10 = Archive(
    filename="cifar-10-python.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    size_bytes=170_498_071,
)


def download(
    archive: Archive,
    root: Path,
    *,
    progress: Callable[[int], object] | None = None,
    timeout_s: float = 60.0,
) -> Path:
    """Download an archive into the folder `root`, unless it is there already; returns its path.

    The bytes go to a temporary file in `root` that takes the final name after its length and
    SHA-256 have been checked: a killed or failed download leaves no file of that name.

    Args:
        progress: called with the bytes of each block.
        timeout_s: seconds without an answer after which to give up.

    Raises:
        InputError: no network, a file other than the expected one, or `root` cannot be written.
    """
    path = root / archive.filename
    if path.exists():
        if not path.is_file() or sha256_of(path) != archive.sha256:
            raise InputError(
                f"{path} exists but is not the official file, because its SHA-256 is not "
                f"{archive.sha256}; move it away to download it again"
            )
        _log.info("%s exists already", path)
        return path
    temporary: Path | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        clear_leftovers(root, re.compile(rf"\.{re.escape(archive.filename)}\.[a-z0-9_]{{8}}\.part"))
        with tempfile.NamedTemporaryFile(
            dir=root, prefix=f".{archive.filename}.", suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            lock(file.fileno())
            digest = _fetch(archive, file.write, progress, timeout_s)
            file.flush()
            os.fsync(file.fileno())
        if digest != archive.sha256:
            raise InputError(
                f"{archive.url}: expected SHA-256 {archive.sha256}, got {digest}: this is "
                "another file, and nothing was kept"
            )
        # A temporary file is private (0600); a data set is an ordinary file.
        temporary.chmod(0o644)
        temporary.replace(path)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise InputError(
            f"cannot download {archive.url}: {reason}; without a network, copy "
            f"{archive.filename} to {root} by hand"
        ) from error
    except OSError as error:
        raise InputError(f"cannot write {root}: {error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _fetch(
    archive: Archive,
    write: Callable[[bytes], int],
    progress: Callable[[int], object] | None,
    timeout_s: float,
) -> str:
    """Pass the bytes to `write`; return their SHA-256. Stops as soon as there are too many."""
    if not archive.url.startswith(("http://", "https://")):
        raise InputError(f"{archive.url}: expected an http or https address")
    digest = hashlib.sha256()
    done = 0
    with urllib.request.urlopen(archive.url, timeout=timeout_s) as answer:
        while block := answer.read(_BLOCK_BYTES):
            done += len(block)
            if done > archive.size_bytes:
                break
            write(block)
            digest.update(block)
            if progress is not None:
                progress(len(block))
    if done != archive.size_bytes:
        raise InputError(
            f"{archive.url}: expected {archive.size_bytes:,} bytes, got "
            f"{'more' if done > archive.size_bytes else f'{done:,}'}; nothing was kept, try again"
        )
    return digest.hexdigest()
