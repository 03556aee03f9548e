"""Atomic writes and hashes of files."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.core.errors import InputError
from deploy.core.files import sha256_of, sha256_of_bytes, write_atomic
from deploy.core.npz import read_npz
from deploy.core.strict_json import read_json


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
