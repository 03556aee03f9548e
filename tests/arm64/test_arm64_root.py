"""An arm64 root that cannot be made: one line, an exit code, nothing that looks like a root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import arm64_root as module
from benchmarks.arm64_root import SetUpError, arm64_root
from benchmarks.records import ROOT


def made(cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.arm64_root", str(cache)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    "environment", [{"DEBIAN_MIRROR": "file:///there/is/no/mirror"}, {"PATH": "/nowhere"}]
)
def test_what_is_missing_is_told_in_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    done = made(tmp_path / "cache", **environment)
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("arm64 root: ")
    assert "not found" in line or "file:///there/is/no/mirror" in line
    assert not list(tmp_path.glob("cache/*"))


def test_a_root_that_breaks_off_while_it_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_off(scratch: Path) -> None:
        (scratch / "root" / "usr").mkdir(parents=True)
        raise SetUpError("the mirror went away")

    monkeypatch.setattr(module, "_make", breaks_off)
    monkeypatch.setattr(module, "_require_tools", lambda: None)
    with pytest.raises(SetUpError, match="went away"):
        arm64_root(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    module.root_folder(tmp_path).mkdir()
    with pytest.raises((SetUpError, OSError)) as refused:
        arm64_root(tmp_path)
    assert str(module.root_folder(tmp_path)) in str(refused.value)
