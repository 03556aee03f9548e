"""Atomic writes, strict JSON, hashes and array archives without pickle."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .limits import MOST_JSON_BYTES, MOST_NESTED, most_unpacked, require_file_size
from .locks import clear_leftovers, is_there, lock
from .text import shortened

STDOUT = Path("-")
"""What an output is called that goes to standard output."""

_HASH_CHUNK_BYTES = 1 << 20
_READ_BYTES = 1 << 20
_NAMED = 5
_MOST_DIGITS = 20
_INTEGERS = range(-(1 << 63), 1 << 64)
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


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


def _check_keys(obj: object) -> None:
    # json.dumps turns a key 8 into "8", in another order: reading back would give other bytes.
    if isinstance(obj, Mapping):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is not text; use {str(key)!r}")
            _check_keys(value)
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            _check_keys(value)


def _plain_value(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not a JSON value (an array needs .tolist())")


def json_bytes(obj: object) -> bytes:
    """Return ``obj`` as UTF-8 JSON: sorted keys, indent 2, final newline; equal for equal input.

    numpy scalars become plain numbers.

    Raises:
        InputError: NaN, an infinity, a key that is not text or something JSON cannot hold.
    """
    try:
        _check_keys(obj)
        text = json.dumps(
            obj,
            sort_keys=True,
            indent=2,
            ensure_ascii=False,
            allow_nan=False,
            default=_plain_value,
        )
        return (text + "\n").encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be written as JSON: {error}") from error


def write_json(path: Path, obj: object) -> None:
    """Write ``obj`` atomically in the form of :func:`json_bytes`.

    Raises:
        InputError: not a JSON value (NaN and infinities are not), or the place is not writable.
    """
    try:
        data = json_bytes(obj)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    write_atomic(path, data)


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} does not fit into a float64")
    return value


def _short_integer(text: str) -> int:
    # Reading n digits takes time in proportion to n², and a number that fits no array overflows
    # later.
    if len(text.lstrip("-")) > _MOST_DIGITS or int(text) not in _INTEGERS:
        raise ValueError(f"the whole number {shortened(text, 30)} does not fit into 64 bits")
    return int(text)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def require_plain_tree(value: object) -> None:
    """Refuse values that are nested too deep for recursive code, and text that no file can hold.

    Args:
        value: dictionaries, lists and plain values, as JSON or TOML readers return them.

    Raises:
        ValueError: more than :data:`.limits.MOST_NESTED` deep, or half a surrogate pair.
    """
    level: list[Any] = [value] if isinstance(value, (dict, list, str)) else []
    for _ in range(MOST_NESTED + 1):
        if not level:
            return
        inner: list[Any] = []
        for one in level:
            if isinstance(one, str):
                if not one.isascii() and _HALF_A_PAIR.search(one):
                    raise ValueError("text with half a surrogate pair, such as \\ud800")
                continue
            parts = (*one, *one.values()) if isinstance(one, dict) else one
            inner += [part for part in parts if isinstance(part, (dict, list, str))]
        level = inner
    raise ValueError(f"it is nested more than {MOST_NESTED} deep")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = sorted(key for key, count in counts.items() if count > 1)
        more = "" if len(twice) <= _NAMED else f" and {len(twice) - _NAMED} more"
        raise ValueError(f"keys given twice: {', '.join(twice[:_NAMED])}{more}")
    return result


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


def parse_json(data: bytes, where: str) -> object:
    """Return what JSON bytes hold; ``where`` names them in errors.

    Raises:
        InputError: too large, truncated, not UTF-8, a key given twice, NaN, Infinity, a number
            that does not fit 64 bits, nested too deeply, or text with half a surrogate pair.
    """
    if len(data) > MOST_JSON_BYTES:
        raise InputError(f"{where} has {len(data):,} bytes, at most {MOST_JSON_BYTES:,} are read")
    try:
        result: object = json.loads(
            data.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_short_integer,
            object_pairs_hook=_unique_keys,
        )
        require_plain_tree(result)
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{where} is not valid JSON ({error}); it is damaged or truncated, create it again"
        ) from error
    return result


def read_json(path: Path) -> object:
    """Return what the JSON file holds.

    Raises:
        InputError: missing, or as :func:`parse_json`.
    """
    require_file_size(Path(path), MOST_JSON_BYTES)
    return parse_json(read_bytes(path), str(path))


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
