"""The unpickler reads what numpy writes, and nothing that could run."""

from __future__ import annotations

import os
import pickle
import resource
import struct
from pathlib import Path

import numpy as np
import pytest

from deploy.core.errors import InputError
from training.data.array_unpickler import arrays_from_pickle


def python2_pickle(rows: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and its numpy wrote the official files (protocol 2, byte strings)."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    array += number(0) + b"\x85" + text(b"b") + b"\x87R"
    shape = number(rows.shape[0]) + number(rows.shape[1]) + b"\x86"
    raw = rows.tobytes()
    array += b"(" + number(1) + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    pairs = text(b"data") + array + text(b"labels") + listed
    return b"\x80\x02}(" + pairs + text(b"batch_label") + text(b"training batch") + b"u."


ROWS = np.random.default_rng(0).integers(0, 256, (4, 7), np.uint8)


def test_reads_a_python_2_pickle_of_the_official_form() -> None:
    content = arrays_from_pickle(python2_pickle(ROWS, [3, 1, 4, 1]), source="batch")
    np.testing.assert_array_equal(content["data"], ROWS)
    assert content["labels"] == [3, 1, 4, 1]
    assert content["batch_label"] == b"training batch"


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        ROWS,
        np.asfortranarray(ROWS),
        ROWS.astype(">i4"),
        ROWS.astype("<i8"),
        ROWS[:, :0],
        ROWS[:1, :1].reshape(()),
    ],
    ids=["C", "F", "big-endian", "int64", "empty", "scalar"],
)
def test_reads_what_numpy_writes(array: np.ndarray, protocol: int) -> None:
    got = arrays_from_pickle(pickle.dumps({b"a": array}, protocol=protocol), source="x")["a"]
    assert isinstance(got, np.ndarray)
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


class _Runs:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_a_pickle_that_imports_os_system_is_refused_and_not_run(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    data = pickle.dumps({b"data": _Runs(target)}, protocol=4)
    with pytest.raises(InputError, match=r"data_batch_1: refused.*system"):
        arrays_from_pickle(data, source="data_batch_1")
    assert not target.exists()


@pytest.mark.parametrize(
    "name",
    [
        b"cbuiltins\neval\n",
        b"cbuiltins\ngetattr\n",
        b"c_codecs\nencode\n",
        b"cnumpy\nload\n",
        b"cnumpy.core.multiarray\nfromfile\n",
        b"cnumpy\nndarray.tofile\n",
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n",
    ],
)
def test_every_other_name_is_refused(name: bytes) -> None:
    with pytest.raises(InputError, match="refused"):
        arrays_from_pickle(b"\x80\x04}\x8c\x01a" + name + b"s.", source="x")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([object()], object), "refused"),
        (np.array([1.5]), "f8"),
        (np.array(["a"]), "U1"),
        (np.zeros(2, [("a", "u1")]), "V1"),
        (np.ma.masked_array([1]), "refused"),
        (np.matrix([[1]]), "refused"),
    ],
    ids=["object", "float", "text", "record", "masked", "matrix"],
)
def test_arrays_other_than_integers_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        arrays_from_pickle(pickle.dumps({b"a": array}, protocol=4), source="x")


def test_a_shape_that_does_not_match_the_bytes_is_refused() -> None:
    data = python2_pickle(ROWS, [0])
    four_rows, many_rows = struct.pack("<i", 4), struct.pack("<i", 2**31 - 1)
    at = data.index(b"J" + four_rows + b"J" + struct.pack("<i", 7))
    with pytest.raises(InputError, match="refused"):
        arrays_from_pickle(data[: at + 1] + many_rows + data[at + 5 :], source="x")


def test_every_truncation_is_one_typed_error() -> None:
    data = python2_pickle(ROWS, [3, 1, 4, 1])
    for end in range(len(data)):
        with pytest.raises(InputError, match=r"x: (not a readable pickle|refused)"):
            arrays_from_pickle(data[:end], source="x")


def test_damaged_bytes_never_escape_as_another_error() -> None:
    data = python2_pickle(ROWS, [3, 1, 4, 1])
    rng = np.random.default_rng(1)
    read = refused = 0
    for _ in range(500):
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            broken[at] = rng.integers(0, 256)
        try:
            arrays_from_pickle(bytes(broken), source="x")
            read += 1  # only pixels or labels changed
        except InputError:
            refused += 1
    assert read > 0
    assert refused > 0


def test_a_huge_memo_index_takes_no_memory() -> None:
    limit_bytes = 4 << 30
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, before[1]))
    try:
        assert arrays_from_pickle(b"\x80\x02}r\xff\xff\xff\x7f.", source="x") == {}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_not_a_dictionary() -> None:
    with pytest.raises(InputError, match="expected a pickled dictionary, got a list"):
        arrays_from_pickle(pickle.dumps([1]), source="x")
    with pytest.raises(InputError, match="holds a int as a key"):
        arrays_from_pickle(pickle.dumps({1: 2}), source="x")


def nested(levels: int) -> bytes:
    """A tuple that holds the one below twice, and so on; on the stack, and as memo ``levels``."""
    steps = b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(levels))
    return b")q\x000" + steps


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}" + nested(40) + b"h\x28K\x01s.",  # as a key
        b"\x80\x02}" + nested(40) + b"(h\x28K\x01u.",
        b"\x80\x02" + nested(40) + b"(h\x28K\x01d.",
        b"\x80\x04\x8f" + nested(40) + b"(h\x28\x90.",  # in a set
        b"\x80\x04" + nested(40) + b"(h\x28\x91.",
        b"\x80\x02cnumpy\ndtype\n" + nested(40) + b"h\x28\x85R.",  # as a type: shown in the error
        b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x.",  # a terabyte of one byte
        b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"x.",
    ],
)
def test_what_a_few_bytes_ask_for_is_refused_before_it_is_done(data: bytes) -> None:
    """Each would take a terabyte, or 2⁴⁰ steps."""
    with pytest.raises(InputError):
        arrays_from_pickle(data, source="x")
