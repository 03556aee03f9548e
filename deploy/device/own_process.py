"""Running an engine on a file in a process of its own, so that a crash is an error of one line.

The parent writes a job into a folder and starts a module of this package on it; the module's
``__main__`` calls :func:`answer`. Results are files in that folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import EngineUnavailable, InputError, QadtrError
from ..core.text import one_line

LONGEST_S = 900.0
"""A run that takes longer is stopped and is an error."""


def run_in_process(module: str, job: Mapping[str, Any], folder: Path, model: str) -> None:
    """Run ``python -m module folder``, which finds ``job`` in the folder.

    Args:
        module: its full name.
        job: JSON values.
        folder: an empty one, for the job and whatever the module writes.
        model: name of the file that is run, for errors.

    Raises:
        InputError, EngineUnavailable: what the module raised; it crashed or took too long.
    """
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    root = str(Path(__file__).resolve().parents[len(__package__.split("."))])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, str(folder)],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{model} had not run through after {LONGEST_S:.0f} s; it was stopped"
        ) from error
    told = folder / "error.json"
    if told.is_file():
        found = json.loads(told.read_text(encoding="utf-8"))
        kind = EngineUnavailable if found["kind"] == "EngineUnavailable" else InputError
        raise kind(found["text"])
    if done.returncode:
        how = f"exit code {done.returncode}"
        if done.returncode < 0:
            how = f"signal {signal.Signals(-done.returncode).name}"
        last = one_line(done.stderr)[-300:]
        raise InputError(
            f"ONNX Runtime crashed on {model} ({how}): the file is damaged or hostile, or "
            f"needs more memory than this machine has{': ' + last if last else ''}"
        )


def answer(folder: Path, work: Callable[[Mapping[str, Any], Path], None]) -> int:
    """What the child does: its exit code; an error of ``work(job, folder)`` is left in a file."""
    _limit_memory()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    try:
        work(job, folder)
    except (QadtrError, MemoryError) as error:
        text = str(error) or "out of memory"
        told = {"kind": type(error).__name__, "text": text}
        (folder / "error.json").write_text(json.dumps(told), encoding="utf-8")
        return 2
    return 0


def _limit_memory() -> None:
    """No more address space than the machine has memory: ask for more, and be refused at once."""
    try:
        import resource

        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (pages, pages))
    except (ImportError, AttributeError, OSError, ValueError):
        pass  # not on this system; the parent still reports a crash
