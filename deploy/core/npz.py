"""Archives of arrays: without pickle, and equal bytes for equal arrays."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .files import read_bytes, write_atomic
from .limits import most_unpacked

_READ_BYTES = 1 << 20
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an ``.npz`` archive of ``arrays`` whose bytes depend on their contents alone.

    Members are sorted by name, dated 1980 and stored uncompressed, since compressed bytes differ
    between versions of zlib. Arrays are written little-endian, in C order.

    Raises:
        InputError: an array holds Python objects, or a name is empty or has a slash.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            array = np.asarray(arrays[name], order="C")
            if array.dtype.hasobject:
                raise InputError(f"array {name!r} holds Python objects, which need pickle")
            if not name or "/" in name or "\\" in name:
                raise InputError(f"{name!r} cannot name an array: use a word without slashes")
            member = io.BytesIO()
            little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
            np.lib.format.write_array(member, little_endian, allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=_ZIP_EPOCH)
            info.create_system = 3  # as on Linux, wherever it is written
            info.external_attr = 0o644 << 16
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write ``arrays`` atomically in the form of :func:`npz_bytes`; ``numpy.load`` reads it.

    Raises:
        InputError: as :func:`npz_bytes`, or the place is not writable.
    """
    write_atomic(path, npz_bytes(arrays))


def _array_from_npy(stream: IO[bytes], length: int) -> NDArray[Any]:
    # numpy's own reader allocates what the header claims before it looks at the data.
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"npy version {version} is unknown; 1.0 and 2.0 are known")
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never loaded")
    if any(length < 0 for length in shape):
        raise ValueError(f"shape {shape} has a negative length")
    expected = math.prod(shape) * dtype.itemsize
    found = length - stream.tell()
    if found != expected:
        raise ValueError(f"{dtype} of shape {shape} needs {expected} bytes, the file has {found}")
    if expected == 0:
        return np.empty(shape, dtype=dtype)
    data = bytearray(expected)
    at, view = 0, memoryview(data)
    while part := stream.read(_READ_BYTES):
        view[at : at + len(part)] = part
        at += len(part)
    if at != expected:
        raise ValueError(f"{dtype} of shape {shape} needs {expected} bytes, the file has {at}")
    array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran_order else "C")
    return np.asarray(array, order="C")


def read_npz(path: Path, *, max_bytes: int = 1 << 32) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` archive; pickled members are refused.

    Args:
        path: the archive.
        max_bytes: the most memory that all arrays may take; the unpacked size is also bounded by
            the size of the archive (:func:`.limits.most_unpacked`).

    Raises:
        InputError: missing, damaged, truncated, too large, or with members that are not arrays.
    """
    data = read_bytes(path)
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            most = min(max_bytes, most_unpacked(len(data)))
            if total > most:
                raise ValueError(f"its arrays take {total:,} bytes, at most {most:,} are allowed")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename or name in arrays:
                    raise ValueError(f"{member.filename!r} is not an array, or occurs twice")
                try:
                    with archive.open(member) as stream:
                        arrays[name] = _array_from_npy(stream, member.file_size)
                except ValueError as error:
                    raise ValueError(f"array {name!r}: {error}") from error
    # Damaged archives surface from zipfile, zlib and numpy under many names.
    except Exception as error:
        raise InputError(
            f"{path} is not a readable .npz archive ({error}); it is damaged, create it again"
        ) from error
    return arrays
