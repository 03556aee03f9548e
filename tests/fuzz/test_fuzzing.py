"""Every reader of a file, for a minute, on inputs made to break it; and the fuzzer itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.errors import InputError
from tests.fuzz import trial
from tests.fuzz.readers import READERS
from tests.fuzz.running import Extent, run
from tests.fuzz.trial import Reader, input_of


@pytest.fixture(scope="module")
def summaries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each reader did with its first inputs."""
    out = tmp_path_factory.mktemp("fuzz") / "summaries.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--json", str(out)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.is_file(), done.stderr[-3000:]
    return {one["reader"]: one for one in json.loads(out.read_text(encoding="utf-8"))}


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_nothing_of_a_file_hangs_crashes_or_takes_the_memory(
    reader: Reader, summaries: dict[str, Any]
) -> None:
    found = summaries[reader.name]
    assert found["findings"] == []
    assert found["inputs"] == reader.tries
    assert found["refused"] > 0 or reader.name in _READ_BY_ANYBODY
    assert found["mib"] <= reader.mib


_READ_BY_ANYBODY = ("onnx-outputs",)
"""Only adds bytes."""


def test_a_seed_is_a_file() -> None:
    for reader in READERS[::7]:
        assert input_of(reader, 1234) == input_of(reader, 1234)
        assert input_of(reader, 1234) != input_of(reader, 1235)


# ------------------------------------------------------------------ what the fuzzer must find


def _in_vain(path: Path) -> None:
    while True:
        pass


def _sleeping(path: Path) -> None:
    time.sleep(3600)


def _hungry(path: Path) -> None:
    np.ones(300 << 20, np.uint8)


def _starving(path: Path) -> None:
    try:
        bytearray(1 << 40)
    except MemoryError as error:
        raise InputError(f"{path} takes too much memory") from error


def _crashing(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _failing(path: Path) -> None:
    raise KeyError("a part")


def _naming_nothing(path: Path) -> None:
    raise InputError("something is wrong")


def _endless(path: Path) -> None:
    raise InputError("\n".join([f"{path} has a fault"] * 200))


def _tracing(path: Path) -> None:
    subprocess.run([sys.executable, "-c", "1 / 0"], check=False)


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (_in_vain, "of processor time"),
        (_sleeping, "no end after"),
        (_hungry, "MiB of memory, at most 64 are promised"),
        (_starving, "only the limit of memory stopped it"),
        (_crashing, "its process died (-9)"),
        (_failing, "KeyError: \"'a part'\""),
        (_naming_nothing, "does not name the file: something is wrong"),
        (_endless, "an error of "),
        (_tracing, "a traceback was printed: ZeroDivisionError"),
    ],
)
def test_each_fault_is_found_and_the_next_input_is_tried(
    read: Callable[[Path], None],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "whole.bin").write_bytes(b"whole")
    monkeypatch.setattr(trial, "CORPUS", tmp_path)
    # Memory that is written for the first time takes time on a busy machine.
    monkeypatch.setattr("tests.fuzz.running.CPU_SECONDS", 30.0 if read is _hungry else 0.5)
    waits = read is _sleeping  # one that computes may wait for a busy machine
    monkeypatch.setattr("tests.fuzz.running.CLOCK_SECONDS", 1.5 if waits else 120.0)

    def at_the_second(path: Path) -> None:
        if path.read_bytes() == input_of(reader, 1)[1]:
            read(path)

    reader = Reader(
        name="planted", about="", corpus=("whole.bin",), read=at_the_second, mib=64, tries=3
    )
    found = run(reader, Extent(found=tmp_path / "found"))
    (line,) = found.findings
    assert line.startswith("planted 1: ")
    assert said in line
    assert found.inputs == 3
    kept = tmp_path / "found" / "planted" / "1" / "whole.bin"
    assert kept.read_bytes() == input_of(reader, 1)[1]


def test_memory_counts_though_as_much_was_freed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "CORPUS", tmp_path)
    (tmp_path / "whole.bin").write_bytes(b"whole")
    pieces = [bytes(100_000) for _ in range(1000)]  # small enough to come from the heap
    last = pieces.pop()  # behind what is freed: the heap keeps that
    pieces.clear()
    reader = Reader(
        name="planted",
        about="",
        corpus=("*",),
        read=lambda path: np.ones(80 << 20, np.uint8),
        mib=64,
        tries=1,
    )
    (line,) = run(reader, Extent()).findings
    assert "MiB of memory, at most 64 are promised" in line
    assert len(last) == 100_000


def test_a_corpus_that_is_refused_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole.bin").write_bytes(b"whole")
    monkeypatch.setattr(trial, "CORPUS", tmp_path)

    def refuse(path: Path) -> None:
        raise InputError(f"{path} is refused")

    reader = Reader(name="planted", about="", corpus=("*",), read=refuse, tries=2)
    found = run(reader, Extent())
    assert [one.partition(": ")[2][:31] for one in found.findings] == [
        "a file of the corpus is refused"
    ]
    assert found.refused == 2
