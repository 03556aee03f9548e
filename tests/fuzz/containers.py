"""Archives and arrays that lie: zip, npz, gzip and tar, safetensors, PNG; each is still parsed."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from functools import cache
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.mutation import NAMES, NUMBERS, mutated, mutated_json

_MIB = 1 << 20
_BOMB_PARTS = 40
_PART_BYTES = 16 * _MIB
_SHAPES = (
    *("(2147483648, 2147483648)", "(9223372036854775807,)", "(-1,)", "(0,)", "()", "(1,)" * 40),
    *("(4, 3, 6, 6.0)", "(True,)", "('a',)", "4", "(0, 9223372036854775807)", "(1, 1, 1, 1)"),
    *("(144, 3)", "(3, 144)", "(432,)", "(1,)", "(" + "1, " * 200 + ")", "9" * 5000, "(" * 500),
)
_DTYPES = (
    *(
        "'|O'",
        "'<f8'",
        "'>f4'",
        "'<M8[s]'",
        "'|V0'",
        "'|V8'",
        "'<U0'",
        "'<U100000'",
        "'|S3'",
        "'a'",
    ),
    *("'|b1'", "'<c16'", "'<f2'", "[('a', '<i4')]", "[('a', '|O')]", "None", "1", "'<U1'", "'|i1'"),
    *("'<u8'", "'<i8'", "[('a', [('b', '<i4')])]", "'<i4, <i4'", "'<f16'", "('<i4', (2, 2))"),
)
_CASTS = ("float32", "float64", "int8", "int64", "bool", "complex64", "uint64", "U3", "float16")


@cache
def _zeros() -> bytes:
    """A deflated part of zeros that can be repeated: 16 MiB from 16 KiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(_PART_BYTES)) + packer.flush(zlib.Z_FULL_FLUSH)


def _bomb() -> tuple[bytes, int, int]:
    """Deflated zeros, how many bytes they are, and their CRC where somebody cares."""
    end = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    return _zeros() * _BOMB_PARTS + end, _BOMB_PARTS * _PART_BYTES, 0


def zipped(rng: Random, data: bytes) -> bytes:
    """A zip archive with other names, sizes, methods, flags or doubled members."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(one.filename, archive.read(one)) for one in archive.infolist()]
    entries = [_entry(name.encode(), content) for name, content in members]
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(entries))
        entry = entries[at]
        match rng.randrange(9):
            case 0:
                names = (*NAMES, "images", "images.npy", "a/b.npy", ".npy", members[0][0])
                entry["name"] = rng.choice(names).encode(errors="surrogatepass")[:60_000]
            case 1:
                entry["size"] = rng.choice(NUMBERS) % (1 << 32)
            case 2:
                entry["packed_size"] = rng.choice(NUMBERS) % (1 << 32)
            case 3:
                entry["method"] = rng.choice((0, 1, 8, 9, 12, 14, 93, 99, 65_535))
            case 4:
                entry["flags"] = rng.choice((1, 8, 64, 0x800, 0xFFFF))
            case 5:
                entries.insert(rng.randrange(len(entries) + 1), dict(entry))
            case 6:
                packed, size, crc = _bomb()
                entry.update(packed=packed, size=size, crc=crc, method=8, packed_size=len(packed))
            case 7:
                del entries[at]
                if not entries:
                    break
            case _:
                entry["offset"] = rng.choice(NUMBERS) % (1 << 32)
    return _archive(rng, entries)


def _entry(name: bytes, content: bytes) -> dict[str, Any]:
    return {
        "name": name,
        "packed": content,
        "packed_size": len(content),
        "size": len(content),
        "crc": zlib.crc32(content),
        "method": 0,
        "flags": 0,
        "offset": None,
    }


def _archive(rng: Random, entries: list[dict[str, Any]]) -> bytes:
    out, directory = bytearray(), bytearray()
    for one in entries:
        at = len(out) if one["offset"] is None else one["offset"]
        common = (
            *(20, one["flags"], one["method"], 0, 0x21, one["crc"], one["packed_size"]),
            *(one["size"], len(one["name"]), 0),
        )
        out += struct.pack("<4s5H3I2H", b"PK\x03\x04", *common) + one["name"] + one["packed"]
        directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *common, 0, 0, 0, 0, at)
        directory += one["name"]
    count, size, at = len(entries), len(directory), len(out)
    if rng.randrange(6) == 0:
        count, size, at = (
            rng.choice((one, rng.choice(NUMBERS) % 65_536)) for one in (count, size, at)
        )
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count % 65_536, count % 65_536, size, at, 0)
    return bytes(out + directory + end)


def arrays_changed(rng: Random, data: bytes) -> bytes:
    """An npz whose headers lie, or whose arrays are well formed and others."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    name = rng.choice(sorted(members))
    members[name] = rng.choice((_header_changed, _array_changed))(rng, members[name])
    out = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w", method) as archive:
        for one, content in members.items():
            archive.writestr(one, content)
    return out.getvalue()


def _header_changed(rng: Random, npy: bytes) -> bytes:
    stream = io.BytesIO(npy)
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    content = stream.read()
    facts = {"descr": repr(dtype.str), "fortran_order": "False", "shape": repr(shape)}
    match rng.randrange(5):
        case 0 | 1:
            facts["shape"] = rng.choice(_SHAPES)
        case 2 | 3:
            facts["descr"] = rng.choice(_DTYPES)
        case _:
            facts[rng.choice(("fortran_order", "more"))] = rng.choice(("True", "1", "None", "[]"))
    text = "{" + ", ".join(f"'{key}': {value}" for key, value in facts.items()) + "}"
    if rng.randrange(8) == 0:
        text = rng.choice(("[" * 3000, "", "{}", "1+1", "__import__('os')", text[:20], "é" * 9))
    header = text.encode() + b"\n"
    version = rng.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    length = len(header) if rng.randrange(5) else rng.choice(NUMBERS) % 65_536
    size = struct.pack("<H" if version == (1, 0) else "<I", length % 65_536)
    return b"\x93NUMPY" + bytes(version) + size + header + content


def _array_changed(rng: Random, npy: bytes) -> bytes:
    array = np.load(io.BytesIO(npy), allow_pickle=False)
    match rng.randrange(5):
        case 0:
            cast = rng.choice(_CASTS)
            array = np.zeros(array.shape, cast) if array.dtype.kind == "U" else array.astype(cast)
        case 1:
            array = (
                array[rng.choice((slice(0), slice(1), slice(None, None, 2)))]
                if array.ndim
                else array
            )
        case 2:
            array = rng.choice((array.T, array[None], array.reshape(-1), np.asfortranarray(array)))
        case 3 if array.size and array.dtype.kind in "iufb":
            array = array.copy()
            value = rng.choice((-1, 255, 2**31, 2**62, np.nan, np.inf, 1e300))
            with np.errstate(all="ignore"):
                wanted: Any = array.dtype if array.dtype.kind == "f" else np.float64
                changed = array.astype(wanted)
                changed.flat[rng.randrange(array.size)] = value
                array = changed if rng.randrange(2) else changed.astype(array.dtype)
        case _:
            array = np.zeros(
                rng.choice(((0,), (), (1, 1, 1, 1), (2, 3, 4), (1, 3, 0, 6))), array.dtype
            )
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=False)
    return out.getvalue()


def gzip_inside(rng: Random, data: bytes) -> bytes:
    """Damage inside of a gzip stream whose checksum is right, or a stream that never ends."""
    if rng.randrange(10) == 0:
        part = gzip.compress(bytes(_PART_BYTES), 1, mtime=0)
        return data[: rng.choice((0, len(data)))] + part * _BOMB_PARTS
    return gzip.compress(mutated(rng, gzip.decompress(data)), 1, mtime=0)


def tar_members(rng: Random, data: bytes) -> bytes:
    """A packed tar archive with other names, kinds, sizes and doubled members."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as tar:
        members = [(one, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]
    out = bytearray()
    for member, content in members * rng.choice((1, 1, 2)):
        match rng.randrange(6):
            case 0:
                names = (*NAMES, "cifar-10-batches-py/data_batch_1", members[-1][0].name)
                member.name = rng.choice(names).replace("\0", "0")
            case 1:
                kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
                member.type = rng.choice((*kinds, tarfile.GNUTYPE_SPARSE, b"x", b"L"))
                member.linkname = "../../etc/passwd"
            case 2:
                member.size = rng.choice((0, 1, len(content) * 2, 2**33, 2**40))
            case 3:
                member.mtime = rng.choice((-1, 2**40))
        form: Any = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
        try:
            out += member.tobuf(form, errors="surrogateescape")
        except ValueError:
            out += member.tobuf(tarfile.PAX_FORMAT, errors="replace")
        out += content + bytes(-len(content) % 512)
    return gzip.compress(bytes(out) + bytes(1024), 1, mtime=0)


def tensors_changed(rng: Random, data: bytes) -> bytes:
    """A safetensors file whose header is another: types, shapes, offsets, metadata, its length."""
    (length,) = struct.unpack_from("<Q", data)
    header, content = data[8 : 8 + length], data[8 + length :]
    if rng.randrange(3):
        facts = json.loads(header)
        one = facts[rng.choice([name for name in facts if name != "__metadata__"])]
        match rng.randrange(4):
            case 0:
                kinds = ("BOOL", "F8_E4M3", "F8_E8M0", "F4", "F16", "BF16", "I64", "U64", "X", "")
                one["dtype"] = rng.choice(kinds)
            case 1:
                one["shape"] = rng.choice(([], [0], [-1], [2**62, 4], [1] * 70, one["shape"][::-1]))
            case 2:
                one["data_offsets"] = rng.choice(([0, 4], [4, 0], [0, 2**40], [-1, 3], [0]))
            case _:
                content = mutated(rng, content)
        header = json.dumps(facts).encode()
    else:
        header = mutated_json(rng, header)
    shown = len(header) if rng.randrange(6) else rng.choice(NUMBERS) % (1 << 64)
    return struct.pack("<Q", shown) + header + content


def png_chunks(rng: Random, data: bytes) -> bytes:
    """A PNG whose chunks have right checksums and other contents: sizes, bombs, text, palettes."""
    if not data.startswith(b"\x89PNG"):
        return mutated(rng, data)
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    place = rng.randrange(len(chunks))
    match rng.randrange(7):
        case 0:
            sizes = (0, 1, 8192, 8193, 65_000, 2**31 - 1)
            size = struct.pack(">II", rng.choice(sizes), rng.choice(sizes))
            kinds = bytes([rng.choice((1, 2, 4, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 1))])
            chunks[0] = (b"IHDR", size + kinds + chunks[0][1][10:])
        case 1:
            packed = zlib.compress(bytes(4 * _MIB))
            bombs = (
                (b"zTXt", b"a\0\0"),
                (b"iCCP", b"a\0\0"),
                (b"iTXt", b"a\0\1\0\0\0"),
                (b"IDAT", b""),
            )
            kind, before = rng.choice(bombs)
            chunks.insert(rng.choice((1, place)), (kind, before + packed * rng.choice((1, 20))))
        case 2:
            more = ((b"eXIf", rng.randbytes(40)), (b"tRNS", rng.randbytes(rng.choice((1, 6, 300)))))
            chunks.insert(place, rng.choice((*more, (b"PLTE", bytes(rng.choice((1, 3, 900)))))))
        case 3:
            chunks.insert(rng.randrange(len(chunks)), chunks[place])
        case 4:
            del chunks[place]
        case 5:
            chunks.insert(1, (b"acTL", struct.pack(">II", rng.choice((0, 1, 2**31)), 0)))
        case _:
            kind, content = chunks[place]
            chunks[place] = (kind, mutated(rng, content))
    whole = b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return data[:8] + whole
