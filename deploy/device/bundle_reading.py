"""Open a bundle, a folder or one file, and trust nothing in it before it is checked.

A bundle is an archive of the strict form of :mod:`stored_zip`, or a folder. Either is copied into
a private folder, and each file is hashed while it is copied: the bytes used later are those that
were hashed, even if the bundle is changed meanwhile. No path leaves the folder. Links and other
special files are refused, and so is every file that the manifest does not list.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from ..core.errors import InputError
from ..core.files import sha256_of_bytes
from ..core.scratch import Scratch
from ..core.stored_zip import MAX_MEMBERS, copy_member, read_members
from ..core.text import some
from .manifest import (
    CHECKSUMS,
    ENVELOPE,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    FileFacts,
    Manifest,
    parse_manifest,
)
from .signature import SIGNATURE_BYTES, require_signature

if TYPE_CHECKING:
    from typing import Self  # from Python 3.11

MAX_BUNDLE_BYTES = 1 << 34
_MAX_DEPTH = 5
_CHUNK_BYTES = 1 << 20
_SMALL: Mapping[str, int] = {
    MANIFEST: MAX_MANIFEST_BYTES,
    CHECKSUMS: 1024,
    SIGNATURE: SIGNATURE_BYTES,
}


def checksums_text(manifest: bytes, signature: bytes | None) -> bytes:
    """Return the content of ``manifest.sha256``; ``sha256sum -c`` reads it."""
    lines = [f"{sha256_of_bytes(manifest)}  {MANIFEST}\n"]
    if signature is not None:
        lines.append(f"{sha256_of_bytes(signature)}  {SIGNATURE}\n")
    return "".join(lines).encode("ascii")


class Bundle:
    """A bundle whose every byte has been checked against its manifest; use it in a ``with``.

    Args:
        path: the folder or the file.
        public_key: PEM file of the key that must have signed; None requires no signature.
        pinned_sha256: that the manifest must have, in lower-case hexadecimal; None takes any.

    Attributes:
        path: as given.
        folder: a temporary one, which holds the checked copies of the files.
        manifest: checked.
        manifest_sha256: of its bytes; identifies exactly this bundle.
        authentication: "signed by KEYFILE", "pinned by its manifest's SHA-256", both with "and", or
            "unauthenticated".

    Raises:
        InputError: the bundle is missing, damaged, changed or malicious, or not the pinned one.
        SignatureError: a signature is required and is missing or wrong.
        EngineUnavailable: a signature is required and the package cryptography is missing.
    """

    def __init__(
        self, path: Path, *, public_key: Path | None = None, pinned_sha256: str | None = None
    ) -> None:
        self.path = Path(path)
        self._pinned_sha256 = pinned_sha256
        self._scratch: Scratch | None = None
        try:
            self._open(public_key)
        except FileNotFoundError as error:
            self.close()
            raise InputError(
                f"{error.filename or self.path} does not exist; expected a bundle"
            ) from error
        except (OSError, ValueError) as error:
            self.close()
            raise InputError(
                f"{self.path.name} is not a bundle that can be trusted: {error}; copy it again, "
                "or make it again with: qadtr bundle (if other tools made the archive, unpack it "
                "and validate the folder)"
            ) from error
        except BaseException:
            self.close()
            raise

    def _open(self, public_key: Path | None) -> None:
        status = self.path.stat()
        if stat.S_ISDIR(status.st_mode):
            sizes = _files_in(self.path)
            self._copy(
                sizes, {name: partial(_copy_file, self.path / name) for name in sizes}, public_key
            )
        elif stat.S_ISREG(status.st_mode):
            with self.path.open("rb") as stream:
                members = {one.name: one for one in read_members(stream, status.st_size)}
                self._copy(
                    {name: member.size for name, member in members.items()},
                    {name: partial(copy_member, stream, one) for name, one in members.items()},
                    public_key,
                )
        else:
            raise ValueError("it is neither a folder nor a file")

    def _copy(
        self,
        sizes: Mapping[str, int],
        copiers: Mapping[str, Callable[[BinaryIO], None]],
        public_key: Path | None,
    ) -> None:
        """Check sizes and names, then copy; each copier writes its file and is called once."""
        small: dict[str, bytes] = {}
        for name, limit in _SMALL.items():
            if name in copiers:
                if sizes[name] > limit:
                    raise ValueError(f"{name} has more than {limit} bytes")
                kept = _Hashing(limit)
                copiers[name](kept)  # type: ignore[arg-type]
                small[name] = bytes(kept.data)
        self._check_envelope(small, public_key)
        # The manifest's paths are safe, and from here on the files are exactly these.
        self._check_listing(sizes)
        with _own_disk():
            self._scratch = Scratch()
        self.folder = self._scratch.folder
        for name, facts in self.manifest.files.items():
            target = self.folder / name
            with _own_disk():
                target.parent.mkdir(parents=True, exist_ok=True)
                out = target.open("xb", buffering=0)
            with out:
                copied = _Hashing(facts.size_bytes, out)
                copiers[name](copied)  # type: ignore[arg-type]
            _require_facts(copied, name, facts)

    def _check_envelope(self, small: Mapping[str, bytes], public_key: Path | None) -> None:
        for name in (MANIFEST, CHECKSUMS):
            if name not in small:
                raise ValueError(f"it has no {name}")
        data, signature = small[MANIFEST], small.get(SIGNATURE)
        vouched = []
        if public_key is not None:
            require_signature(data, signature, public_key)
            vouched.append(f"signed by {public_key.name}")
        if self._pinned_sha256 is not None:
            found = sha256_of_bytes(data)
            if found != self._pinned_sha256:
                raise ValueError(
                    f"it is not the pinned bundle: its {MANIFEST} has the SHA-256 {found}, "
                    f"expected {self._pinned_sha256}"
                )
            vouched.append("pinned by its manifest's SHA-256")
        self.authentication = " and ".join(vouched) or "unauthenticated"
        if small[CHECKSUMS] != checksums_text(data, signature):
            raise ValueError(
                f"{MANIFEST} or {SIGNATURE} does not match {CHECKSUMS}: it was changed"
            )
        self.manifest: Manifest = parse_manifest(data)
        self.manifest_sha256 = sha256_of_bytes(data)

    def _check_listing(self, found: Mapping[str, int]) -> None:
        listed = self.manifest.files
        unknown = sorted(found.keys() - listed.keys() - set(ENVELOPE))
        if unknown:
            raise ValueError(f"it holds files that its manifest does not list: {some(unknown)}")
        missing = sorted(listed.keys() - found.keys())
        if missing:
            raise ValueError(f"files are missing: {some(missing)}")
        for name, facts in listed.items():
            if found[name] != facts.size_bytes:
                raise ValueError(
                    f"{name} has {found[name]} bytes, its manifest states {facts.size_bytes}"
                )

    def file(self, name: str) -> Path:
        """Return the location of the checked copy of the file with that path in the bundle."""
        if name not in self.manifest.files:
            raise InputError(f"the manifest does not list {name!r}")
        return self.folder / name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the unpacked files; a second call is not an error."""
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            scratch.close()


@contextmanager
def _own_disk() -> Iterator[None]:
    """Report errors of this machine's place for temporary files as such, not as the bundle's."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the bundle cannot be copied to {tempfile.gettempdir()}: {error.strerror or error}; "
            "free as much space there as the bundle takes, or set TMPDIR to another folder"
        ) from error


class _Hashing:
    """Writes at most a given number of bytes from a copier to ``out`` and hashes them.

    ``out`` is not buffered, so that a full disk raises its error here.
    """

    def __init__(self, limit: int, out: FileIO | None = None) -> None:
        self.data = bytearray()
        self.digest = hashlib.sha256()
        self.left = limit
        self._out = out

    def write(self, data: bytes) -> None:
        """Write and hash more bytes."""
        self.left -= len(data)
        if self.left < 0:
            raise ValueError("a file grew while it was being read")
        self.digest.update(data)
        if self._out is None:
            self.data.extend(data)
            return
        with _own_disk():
            left = memoryview(data)
            while left:
                left = left[self._out.write(left) :]


def _files_in(folder: Path) -> dict[str, int]:
    """Sizes of the regular files by path; anything else in the folder is refused."""
    found: dict[str, int] = {}
    total = 0
    waiting = [(str(folder), "", 0)]
    while waiting:
        place, prefix, depth = waiting.pop()
        if depth >= _MAX_DEPTH:
            raise ValueError(f"its folders are more than {_MAX_DEPTH} deep")
        entries = 0
        with os.scandir(place) as listing:
            for entry in listing:
                entries += 1
                name = f"{prefix}{entry.name}"
                if entry.is_symlink():
                    raise ValueError(f"{name!r} is a link")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, f"{name}/", depth + 1))
                elif entry.is_file(follow_symlinks=False):
                    found[name] = entry.stat(follow_symlinks=False).st_size
                    total += found[name]
                else:
                    raise ValueError(f"{name!r} is neither a file nor a folder")
                if len(found) + len(waiting) > MAX_MEMBERS or total > MAX_BUNDLE_BYTES:
                    raise ValueError(
                        f"it has more than {MAX_MEMBERS} files or {MAX_BUNDLE_BYTES} bytes"
                    )
        if not entries and prefix:
            raise ValueError(f"the folder {prefix!r} is empty")
    return found


def _copy_file(path: Path, target: BinaryIO) -> None:
    # Not blocking: a pipe that took the file's place must not be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path.name!r} is not a file any more")
        while chunk := stream.read(_CHUNK_BYTES):
            target.write(chunk)


def _require_facts(copied: _Hashing, name: str, facts: FileFacts) -> None:
    found = copied.digest.hexdigest()
    if copied.left or found != facts.sha256:
        raise ValueError(
            f"{name} has SHA-256 {found[:16]}…, its manifest states {facts.sha256[:16]}…: it was "
            "changed or replaced"
        )
