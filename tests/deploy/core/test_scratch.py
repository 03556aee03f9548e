"""Temporary files and folders: those of dead processes go, those of living ones stay."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deploy.core.files import write_atomic
from deploy.core.scratch import PREFIX, Scratch

ROOT = Path(__file__).parents[3]


def killed_in(code: str, *words: str) -> None:
    """Run the code in a process that kills itself at its end, as a kill from outside would."""
    code += "\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_process_left_is_removed_by_the_next_at_once(tmp_path: Path) -> None:
    killed_in(
        "import sys; from pathlib import Path; from deploy.core.scratch import Scratch\n"
        "one = Scratch(place=Path(sys.argv[1])); (one.folder / 'model.onnx').write_bytes(b'x')",
        str(tmp_path),
    )
    assert [path.name[: len(PREFIX)] for path in tmp_path.iterdir()] == [PREFIX]
    others = {tmp_path / f"{PREFIX}notes", tmp_path / "other-abcdefgh"}
    for one in others:
        one.mkdir()
    with Scratch(place=tmp_path) as first, Scratch(place=tmp_path) as second:
        assert set(tmp_path.iterdir()) == {first, second, *others}
    assert set(tmp_path.iterdir()) == others


def test_a_folder_that_was_taken_for_a_leftover_before_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, []

    def mkdtemp(prefix: str, dir: Path) -> str:
        path = make(prefix=prefix, dir=dir)
        made.append(path)
        if len(made) == 1:  # another process clears between the two steps
            shutil.rmtree(path)
        return path

    monkeypatch.setattr("tempfile.mkdtemp", mkdtemp)
    with Scratch(place=tmp_path) as folder:
        assert len(made) == 2 and folder == Path(made[1]) and folder.is_dir()


def test_the_next_write_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "state [1].bin"
    killed_in(
        "import os, sys; from pathlib import Path; import deploy.core.files as files\n"
        "files.os.fsync = lambda descriptor: os.kill(os.getpid(), 9)\n"
        "files.write_atomic(Path(sys.argv[1]), b'half')",
        str(path),
    )
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".state [1].bin.") and left.name.endswith(".tmp")
    kept = [tmp_path / ".state 1.bin.12-0123abcd.tmp", tmp_path / ".state [1].bin.mine.tmp"]
    for one in kept:
        one.write_bytes(b"of somebody else")
    write_atomic(path, b"whole")
    assert set(tmp_path.iterdir()) == {path, *kept}
    assert path.read_bytes() == b"whole"


def test_a_file_that_is_being_written_is_not_taken_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sync = tmp_path / "file", os.fsync
    inner = [b"inner"]

    def while_it_is_written(descriptor: int) -> None:
        if inner:
            write_atomic(path, inner.pop())
        sync(descriptor)

    monkeypatch.setattr("deploy.core.files.os.fsync", while_it_is_written)
    write_atomic(path, b"outer")
    assert path.read_bytes() == b"outer"
    assert list(tmp_path.iterdir()) == [path]
