"""Zip archives of one form only: every byte follows from the names and contents of the files.

Members are stored uncompressed, sorted by name, dated 1980-01-01, mode 0644, without extra fields
or comments, one after the other. So equal files give equal archives everywhere, and a reader can
compare every byte of the archive with its only valid value: nothing can hide between the members,
an archive never unpacks to more than its own size, and no byte can change undetected. Ordinary zip
tools and Python's own importer read these archives.

Reference: APPNOTE.TXT, the .ZIP file format specification, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import InputError
from .files import write_atomic

MAX_MEMBERS = 4096
MAX_ARCHIVE_BYTES = (1 << 32) - 1
"""Beyond these the format needs its 64-bit extension, which is not written or read here."""

_LOCAL, _ENTRY = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION = 20
_MADE_BY_UNIX = 3 << 8 | _VERSION
_TIME, _DATE = 0, 0x21  # 1980-01-01 00:00
_ATTRIBUTES = 0o100644 << 16
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file in an archive: where its bytes are (offset and size in bytes) and their CRC-32."""

    name: str
    offset: int
    size: int
    crc: int


def _headers(name: bytes, crc: int, size: int, offset: int) -> tuple[bytes, bytes]:
    """The header before a file's bytes, at ``offset``, and its entry in the directory."""
    common = (_VERSION, 0, 0, _TIME, _DATE, crc, size, size, len(name), 0)
    entry = _ENTRY.pack(b"PK\x01\x02", _MADE_BY_UNIX, *common, 0, 0, 0, _ATTRIBUTES, offset)
    return _LOCAL.pack(b"PK\x03\x04", *common) + name, entry + name


def _end_record(count: int, size: int, offset: int) -> bytes:
    return _END.pack(b"PK\x05\x06", 0, 0, count, count, size, offset, 0)


def stored_zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """Return the archive of ``files``, name to content.

    Raises:
        InputError: a name that is not ASCII, too many files, or 4 GiB and more.
    """
    if len(files) > MAX_MEMBERS:
        raise InputError(f"a zip bundle holds at most {MAX_MEMBERS} files, got {len(files)}")
    parts: list[bytes] = []
    directory = bytearray()
    offset = 0
    for name, data in sorted(files.items()):
        if not name.isascii() or not 0 < len(name) < 1 << 16:
            raise InputError(f"{name!r} cannot name a file in an archive: use ASCII")
        if offset + len(data) > MAX_ARCHIVE_BYTES - (1 << 20):
            raise InputError("the files have 4 GiB or more; write a folder instead of one file")
        header, entry = _headers(name.encode("ascii"), zlib.crc32(data), len(data), offset)
        parts += [header, data]
        directory += entry
        offset += len(header) + len(data)
    return b"".join([*parts, directory, _end_record(len(files), len(directory), offset)])


def write_stored_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """Write :func:`stored_zip_bytes` atomically; errors as there."""
    write_atomic(path, stored_zip_bytes(files))


def read_members(stream: BinaryIO, size: int, *, max_name: int = 256) -> list[Member]:
    """Return the members of an archive after comparing every byte outside their contents.

    Args:
        stream: opened for reading bytes, seekable.
        size: of the archive in bytes.
        max_name: longest name allowed, in bytes; memory is bounded by it.

    Raises:
        ValueError: the archive does not have exactly the form that this module writes.
    """
    if not _END.size <= size <= MAX_ARCHIVE_BYTES:
        raise ValueError(
            f"expected an archive of {_END.size} to {MAX_ARCHIVE_BYTES} bytes, got {size}"
        )
    stream.seek(size - _END.size)
    end = stream.read(_END.size)
    count, directory_size, directory_offset = _END.unpack(end)[4:7]
    if end != _end_record(count, directory_size, directory_offset):
        raise ValueError("its end is not that of an archive of this form")
    if count > MAX_MEMBERS or directory_size > count * (_ENTRY.size + max_name):
        raise ValueError(f"its directory is too large ({count} files, {directory_size} bytes)")
    if directory_offset + directory_size + _END.size != size:
        raise ValueError("bytes are before, after or inside its directory")
    stream.seek(directory_offset)
    members = _read_directory(stream.read(directory_size), count)
    expected = 0
    for member in members:
        header = _headers(member.name.encode("ascii"), member.crc, member.size, expected)[0]
        stream.seek(expected)
        if member.offset != expected + len(header) or stream.read(len(header)) != header:
            raise ValueError(f"the header of {member.name!r} is not the expected one")
        expected = member.offset + member.size
    if expected != directory_offset:
        raise ValueError("bytes are between its files and its directory")
    return members


def _read_directory(directory: bytes, count: int) -> list[Member]:
    members: list[Member] = []
    position = 0
    for _ in range(count):
        if position + _ENTRY.size > len(directory):
            raise ValueError("its directory ends early")
        fields = _ENTRY.unpack_from(directory, position)
        crc, size, length, offset = fields[7], fields[8], fields[10], fields[16]
        start, position = position, position + _ENTRY.size + length
        encoded = directory[start + _ENTRY.size : position]
        if not encoded.isascii():
            raise ValueError("a file name is not ASCII")
        name = encoded.decode("ascii")
        header, entry = _headers(encoded, crc, size, offset)
        if directory[start:position] != entry:
            raise ValueError(
                f"the entry of {name!r} is compressed, linked, encrypted, dated or damaged"
            )
        members.append(Member(name=name, offset=offset + len(header), size=size, crc=crc))
    if position != len(directory):
        raise ValueError("its directory holds more than its files")
    names = [member.name for member in members]
    if names != sorted(set(names)):
        raise ValueError("its files are not sorted by name, or a name occurs twice")
    return members


def copy_member(stream: BinaryIO, member: Member, target: BinaryIO) -> None:
    """Copy the content of one member, in pieces of 1 MiB.

    Raises:
        ValueError: the content is truncated or has another CRC-32.
    """
    stream.seek(member.offset)
    left, crc = member.size, 0
    while left:
        chunk = stream.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise ValueError(f"{member.name!r} ends early")
        crc = zlib.crc32(chunk, crc)
        left -= len(chunk)
        target.write(chunk)
    if crc != member.crc:
        raise ValueError(f"{member.name!r} has another checksum than the archive states")
