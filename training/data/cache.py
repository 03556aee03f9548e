"""Decoded images on disk, mapped into memory: for a data set larger than the memory.

A cache is a folder. Each split of a data set has two files there:

NAME-SPLIT-SIZEpx.npy    uint8 N×3×H×W as `numpy.load` reads it, in the order of the data set
NAME-SPLIT-SIZEpx.json   its source and its contents: shape, classes, labels, digests

The images are mapped read-only, so all processes of a machine share the kernel's one copy of the
pages that were read, and the kernel frees them when memory is short. Bytes and digest equal those
of a set that is decoded into memory: a run and its checkpoint do not depend on the choice.

One process at a time makes a file (`flock`); the others wait and then use it. A killed process
leaves ``.NAME.partial.npy``, the number of finished images and the digest of that part; the next
one continues there if that digest still matches. A file gets its name only when it is complete.

Files are not hashed again at each start, which would read everything: byte count and time of change
are compared with the recorded ones, and only where they differ (a copy on another disk) is the
whole file read and its digest compared.
"""

from __future__ import annotations

import fcntl
import io
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL

from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes
from deploy.core.strict_json import json_bytes, read_json, write_json
from training.data.image_file import DECODING, read_image
from training.data.image_set import ImageDigest, ImageSet, digest_of
from training.data.listing import Listing
from training.progress import Progress

FORMAT = "qadtr-image-cache"
FORMAT_VERSION = 1
SECONDS_BETWEEN_STATES = 30.0

_log = logging.getLogger(__name__)


def cached_images(listing: Listing, size_px: int | None, folder: Path) -> ImageSet:
    """The images of ``listing``, mapped read-only from ``folder``, the cache; missing images are
    decoded into it first.  ``size_px`` as :func:`training.data.image_file.read_image`.

    Raises:
        InputError: a file is not a readable image or differs in size from the first one; the cache
            holds other images under this name, cannot be written, or its disk is too small.
    """
    entry = _Entry(listing, size_px, folder)
    found = None
    try:
        found = entry.found()
    except _DamagedError as error:
        _log.warning("the cache is damaged and is created again: %s", error)
    if found is None:
        with entry.locked():
            # Another process may have made it meanwhile.
            with suppress(_DamagedError):
                found = entry.found()
            found = found or entry.made()
    return found


class _DamagedError(InputError):
    """The contents of the cache do not match its sidecar."""


class _Entry:
    """The files of one split at one size."""

    def __init__(self, listing: Listing, size_px: int | None, folder: Path) -> None:
        self.listing, self.size_px, self.folder = listing, size_px, folder
        size = "as-it-is" if size_px is None else f"{size_px}px"
        stem = f"{listing.name}-{listing.split}-{size}"
        self.images, self.sidecar = folder / f"{stem}.npy", folder / f"{stem}.json"
        self.partial, self.state = folder / f".{stem}.partial.npy", folder / f".{stem}.partial.json"
        self.lock = folder / f".{stem}.lock"

    @cached_property
    def wanted(self) -> dict[str, Any]:
        """The facts that the sidecar must record."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "decoding": DECODING,
            "split": self.listing.split,
            "size_px": self.size_px,
            "classes": list(self.listing.classes),
            "files": {"count": len(self.listing.files), "digest": self.listing.digest()},
        }

    # ------------------------------------------------------------------ what is there

    def found(self) -> ImageSet | None:
        """The set, or None where the cache does not have it.

        Raises:
            InputError: the entry is of other images.
            _DamagedError: the entry is no longer intact.
        """
        if not self.images.is_file() or not self.sidecar.is_file():
            return None
        try:
            facts = _checked_sidecar(self.sidecar)
        except InputError as error:
            raise _DamagedError(str(error)) from error
        self._require_same_source(facts)
        try:
            images = np.lib.format.open_memmap(self.images, mode="r")
        # A damaged header surfaces from numpy and from Python's tokenizer under many names.
        except Exception as error:
            raise _DamagedError(f"{self.images} cannot be read ({error})") from error
        told = self.images.stat()
        if (
            images.dtype != np.uint8
            or list(images.shape) != facts.get("shape")
            or not images.flags.c_contiguous
            or images.offset + images.nbytes != told.st_size
        ):
            raise _DamagedError(f"{self.images} does not hold the array that its sidecar describes")
        if not isinstance(facts.get("digest"), str):
            raise _DamagedError(f"{self.sidecar} has no digest of its images")
        if self.listing.labels.tolist() != facts.get("labels"):
            raise _DamagedError(f"{self.sidecar} has other labels")
        if facts.get("stamp") != _stamp(told):
            _log.info("%s was copied or changed; reading all of it to compare digests", self.images)
            if digest_of(images, self.listing.labels) != facts.get("digest"):
                raise _DamagedError(
                    f"{self.images} does not have the digest that its sidecar states"
                )
            self._note(facts | {"stamp": _stamp(told)})
        return ImageSet(
            images=np.asarray(images),
            labels=np.ascontiguousarray(self.listing.labels),
            classes=self.listing.classes,
            name=self.listing.name,
            split=self.listing.split,
            digest=str(facts["digest"]),
        )

    def _require_same_source(self, facts: Mapping[str, Any]) -> None:
        other = [key for key, value in self.wanted.items() if facts.get(key) != value]
        if other:
            raise InputError(
                f"{self.images} was made from other images than those now in "
                f"{self.listing.folder} (different: {', '.join(other)}); delete it so that it is "
                "created again, or give another --cache DIR"
            )

    def _note(self, facts: Mapping[str, Any]) -> None:
        try:
            write_json(self.sidecar, _signed(facts))
        except InputError:
            _log.info("%s cannot be written, so the next start reads all of it again", self.sidecar)

    # ------------------------------------------------------------------ making it

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock for making this entry; the kernel releases it if the process is killed."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.lock.open("a") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    _log.info("waiting for the process that creates %s", self.images)
                    fcntl.flock(stream, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise InputError(
                f"cannot write the cache {self.folder} ({error}); choose another --cache DIR"
            ) from error

    def made(self) -> ImageSet:
        """Decode what is missing, put the files in place, and return the set."""
        listing = self.listing
        # The contents of a damaged cache are useless, and their disk space is needed.
        self.images.unlink(missing_ok=True)
        first = read_image(listing.folder / listing.files[0], self.size_px)
        shape = (len(listing.files), *first.shape)
        header = _npy_header(shape)
        done, digest = self._begun(shape, header)
        self._require_room((shape[0] - done) * first.nbytes)
        self.partial.touch()
        with (
            self.partial.open("r+b") as file,
            Progress(f"decoding {listing.folder}", len(listing.files)) as bar,
        ):
            file.seek(0)
            file.write(header)
            file.seek(len(header) + done * first.nbytes)
            file.truncate()
            bar.advance(done)
            saved = time.monotonic()
            for image in listing.decoded(self.size_px, done):
                contiguous = np.ascontiguousarray(image)
                file.write(contiguous.data)
                digest.add(contiguous)
                done += 1
                bar.advance()
                if time.monotonic() - saved >= SECONDS_BETWEEN_STATES:
                    self._save(file, done, digest)
                    saved = time.monotonic()
            _on_disk(file)
        facts = {
            **self.wanted,
            "name": listing.name,
            "shape": list(shape),
            "labels": listing.labels.tolist(),
            "digest": digest.of_set(listing.labels),
            "stamp": _stamp(self.partial.stat()),
            "made_with": {"numpy": np.__version__, "pillow": PIL.__version__},
        }
        write_json(self.sidecar, _signed(facts))
        self.partial.replace(self.images)
        _log.info("%s: decoded %d images", self.images, shape[0])
        self.state.unlink(missing_ok=True)
        made = self.found()
        if made is None:
            raise InputError(f"{self.images} cannot be read back; check that disk")
        return made

    def _begun(self, shape: tuple[int, ...], header: bytes) -> tuple[int, ImageDigest]:
        """The number of complete images that an interrupted process left, and their digest."""
        digest = ImageDigest(shape)
        with suppress(InputError, FileNotFoundError):
            state = _checked_sidecar(self.state)
            done = state.get("done")
            wanted = all(state.get(key) == value for key, value in self.wanted.items())
            if wanted and type(done) is int and 0 <= done <= shape[0] and "digest" in state:
                with self.partial.open("rb") as file:
                    same = file.read(len(header)) == header
                    for _ in range(done):
                        digest.add(np.frombuffer(file.read(math.prod(shape[1:])), np.uint8))
                if same and digest.so_far() == state["digest"]:
                    _log.info("%s: continuing after image %d of %d", self.images, done, shape[0])
                    return done, digest
        # Its room is needed.
        self.partial.unlink(missing_ok=True)
        return 0, ImageDigest(shape)

    def _save(self, file: BinaryIO, done: int, digest: ImageDigest) -> None:
        _on_disk(file)
        write_json(self.state, _signed({**self.wanted, "done": done, "digest": digest.so_far()}))

    def _require_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise InputError(
                f"the decoded images of {self.listing.folder} need another {needed / 1e9:,.2f} "
                f"GB, but {self.folder} has {free / 1e9:,.2f} GB free; choose another --cache "
                "DIR or a smaller data.size"
            )


def _npy_header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, facts)
    return stream.getvalue()


def _on_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _stamp(found: os.stat_result) -> dict[str, int]:
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def _signed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """``facts`` with their own SHA-256, so that a change is detected."""
    plain = {key: value for key, value in facts.items() if key != "sha256"}
    return {**plain, "sha256": sha256_of_bytes(json_bytes(plain))}


def _checked_sidecar(path: Path) -> dict[str, Any]:
    """The facts that :func:`_signed` wrote.

    Raises:
        InputError: they are damaged or changed.
    """
    facts = read_json(path)
    if not isinstance(facts, dict) or _signed(facts) != facts:
        raise InputError(f"{path} is damaged or was changed")
    return facts
