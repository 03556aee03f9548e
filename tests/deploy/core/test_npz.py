"""Archives of arrays: what comes back, and what is refused."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from deploy.core import limits
from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes
from deploy.core.npz import npz_bytes, read_npz, write_npz

ARRAYS: dict[str, np.ndarray] = {
    "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "mask": np.array([[True, False]]),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "scalar": np.array(2.5, dtype=np.float32),
    "empty": np.empty((0, 2), dtype=np.int32),
    "big_endian": np.array([1, 256], dtype=">i4"),
}


def test_npz_comes_back_here_and_in_numpy(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    write_npz(path, ARRAYS)
    back = read_npz(path)
    with np.load(path, allow_pickle=False) as loaded:
        for arrays in (back, dict(loaded)):
            assert set(arrays) == set(ARRAYS)
            for name, array in ARRAYS.items():
                np.testing.assert_array_equal(arrays[name], array)
                assert arrays[name].dtype == array.dtype.newbyteorder("<")
                assert arrays[name].shape == array.shape
    assert back["bytes"].flags.writeable


def test_npz_bytes_depend_on_contents_alone() -> None:
    first = npz_bytes(ARRAYS)
    backwards = {name: ARRAYS[name].copy(order="F") for name in reversed(ARRAYS)}
    assert npz_bytes(backwards) == first
    expected = "02fc372f"  # of this format on any machine; a change is a new format version
    assert sha256_of_bytes(first)[:8] == expected


def test_files_of_numpy_are_read_too(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **ARRAYS)  # type: ignore[arg-type]
    back = read_npz(tmp_path / "a.npz")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("name", ["", "a/b", "..\\x"])
def test_npz_names_are_words(name: str) -> None:
    with pytest.raises(InputError, match="cannot name an array"):
        npz_bytes({name: np.zeros(1)})


def test_pickles_are_neither_written_nor_read(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    with pytest.raises(InputError, match="pickle"):
        npz_bytes({"x": objects})
    np.savez(tmp_path / "evil.npz", x=objects)
    with pytest.raises(InputError, match="pickled"):
        read_npz(tmp_path / "evil.npz")


def _archive(members: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _npy(shape: str, data: bytes) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable"),
        (b"no zip at all", "not a readable"),
        (_archive({"x.txt": b"hello"}), "is not an array"),
        (_archive({"x.npy": b"hello"}), "array 'x'"),
        (
            _archive({"x.npy": _npy("(99999999999,)", b"abc")}),
            "needs 99999999999 bytes, the file has 3",
        ),
        (_archive({"x.npy": _npy("(-1,)", b"abc")}), "negative"),
        (_archive({"x.npy": _npy("(2,)", b"abc")}), "needs 2 bytes, the file has 3"),
        (_archive({"x.npy": _npy("__import__('os')", b"")}), "array 'x'"),
    ],
)
def test_bad_npz_is_an_input_error_that_names_the_file(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.npz.*{words}"):
        read_npz(path)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    bomb = _npy("(10000000,)", b"\0" * 10_000_000)
    path.write_bytes(_archive({"x.npy": bomb}, compression=zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match="at most 1,000,000 are allowed"):
        read_npz(path, max_bytes=1_000_000)
    assert read_npz(path)["x"].size == 10_000_000


def test_what_an_archive_may_unpack_to_follows_from_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "bomb.npz"
    bomb = _npy("(10000000,)", bytes(10_000_000))
    path.write_bytes(_archive({"x.npy": bomb}, compression=zipfile.ZIP_DEFLATED))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bomb\.npz.* take 10,000,\d+ bytes, at most 1,048,576"):
        read_npz(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    path.write_bytes(_archive({"x.npy": bomb}, compression=zipfile.ZIP_STORED))
    assert read_npz(path)["x"].size == 10_000_000


def test_no_truncation_and_no_flipped_byte_of_an_npz_goes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    values = np.random.default_rng(1).integers(0, 256, size=300, dtype=np.uint8)
    data = npz_bytes({"x": values})
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            read_npz(path)
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        try:
            back = read_npz(path)
        except InputError:
            continue
        # What may differ unseen is the zip's own bookkeeping or the name, never the values.
        (array,) = back.values()
        np.testing.assert_array_equal(array, values)
