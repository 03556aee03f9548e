from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core import files, limits
from deploy.core.errors import InputError
from deploy.core.files import (
    npz_bytes,
    read_json,
    read_npz,
    sha256_of,
    sha256_of_bytes,
    write_atomic,
    write_json,
    write_npz,
)

ARRAYS: dict[str, np.ndarray] = {
    "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "mask": np.array([[True, False]]),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "scalar": np.array(2.5, dtype=np.float32),
    "empty": np.empty((0, 2), dtype=np.int32),
    "big_endian": np.array([1, 256], dtype=">i4"),
}


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [item.name for item in path.parent.iterdir()] == ["file.bin"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_is_not_writable_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot write"):
        write_atomic(tmp_path / "file" / "below", b"")


def test_a_killed_writer_leaves_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    size = 1 << 20
    code = (
        "import sys; from pathlib import Path; from deploy.core.files import write_atomic\n"
        "i = 0\n"
        f"while True: i += 1; write_atomic(Path(sys.argv[1]), bytes([i % 256]) * {size})"
    )
    root = Path(__file__).parents[3]
    for delay_s in (0.0, 0.003, 0.011):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=root) as writer:
            while not path.exists():
                time.sleep(0.001)
            time.sleep(delay_s)
            writer.send_signal(signal.SIGKILL)
        data = path.read_bytes()
        assert len(data) == size
        assert len(set(data)) == 1
        path.unlink()


def test_json_comes_back_and_is_deterministic(tmp_path: Path) -> None:
    path, again = tmp_path / "a.json", tmp_path / "b.json"
    value = {"b": [1, 2.5, None, True], "a": {"ü": "2⁻⁶", "n": np.int64(3), "x": np.float32(0.5)}}
    write_json(path, value)
    write_json(again, dict(reversed(list(value.items()))))
    assert path.read_bytes() == again.read_bytes()
    assert path.read_text().endswith("}\n")
    plain = {"b": [1, 2.5, None, True], "a": {"ü": "2⁻⁶", "n": 3, "x": 0.5}}
    assert read_json(path) == plain
    assert json.loads(path.read_text()) == plain


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("inf")],
        {"a": np.float32("nan")},
        {8: "eight"},
        {"a": [{None: 1}]},
        np.zeros(2),
        {1, 2},
        b"bytes",
        "\ud800",
        Path("x"),
    ],
)
def test_what_json_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, value: Any
) -> None:
    with pytest.raises(InputError, match=r"file\.json"):
        write_json(tmp_path / "file.json", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"a": 1',
        b'{"a": NaN}',
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e999]",
        b'{"a": 1, "a": 2}',
        b"\xff\xfe",
        b"[" * 200_000,
        b"9" * 10_000,
        b"[18446744073709551616]",
        b'{"a": [-9223372036854775809]}',
        b'["\\ud800"]',
        b'{"\\udfff": 1}',
        b"[" * 102 + b"]" * 102,
        b'{"a":' * 102 + b"1" + b"}" * 102,
        b"{} {}",
    ],
)
def test_bad_json_is_an_input_error_that_names_the_file(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=r"bad\.json"):
        read_json(path)


def test_the_largest_the_deepest_and_the_strangest_that_json_is_read_of(tmp_path: Path) -> None:
    path = tmp_path / "good.json"
    path.write_bytes(b'[18446744073709551615, -9223372036854775808, 1e308, "\\ud83d\\ude00"]')
    assert read_json(path) == [2**64 - 1, -(2**63), 1e308, "\U0001f600"]
    path.write_bytes(b"[" * 100 + b"]" * 100)
    found, deep = read_json(path), 1
    while isinstance(found, list) and found:
        found, deep = found[0], deep + 1
    assert deep == 100


def test_missing_files(tmp_path: Path) -> None:
    for read in (read_json, read_npz, sha256_of):
        with pytest.raises(InputError, match="does not exist"):
            read(tmp_path / "none")
        with pytest.raises(InputError, match="cannot read"):
            read(tmp_path)


def test_sha256_is_the_published_one(tmp_path: Path) -> None:
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == sha256_of_bytes(b"abc") == expected


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


def test_json_too_large_or_too_deep_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.json"
    path.write_bytes(b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(InputError, match=r"large\.json is not valid JSON"):
        read_json(path)
    monkeypatch.setattr(files, "MOST_JSON_BYTES", 1000)
    with pytest.raises(InputError, match=r"large\.json has 200,000 bytes, but at most 1,000"):
        read_json(path)


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
