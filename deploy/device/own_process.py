"""Running an engine on a file in a separate process, so that a crash becomes an error of one line.

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
from typing import Any, NamedTuple

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
        InputError, EngineUnavailable: the error of the module; or it crashed or took too long.
    """
    try:
        ended = how_it_ended(module, job, folder, LONGEST_S)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{model} was not finished after {LONGEST_S:.0f} s and was stopped"
        ) from error
    if ended.error is not None:
        raise ended.error
    if ended.code:
        how = f"exit code {ended.code}"
        if ended.code < 0:
            how = f"signal {signal.Signals(-ended.code).name}"
        raise InputError(
            f"ONNX Runtime crashed on {model} ({how}): the file is damaged or malicious, or "
            f"needs more memory than this machine has{': ' + ended.said if ended.said else ''}"
        )


class Ended(NamedTuple):
    """How a child process ended.

    Attributes:
        code: its exit code; negative: the signal that ended it.
        error: the error that its work raised.
        said: the end of its standard error, in one line.
    """

    code: int
    error: InputError | EngineUnavailable | None
    said: str


def how_it_ended(module: str, job: Mapping[str, Any], folder: Path, longest_s: float) -> Ended:
    """Run ``python -m module folder`` to its end.

    Its working directory is ``folder``, which is private: Python looks for modules there first.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was stopped.
        OSError: no process can be started here.
    """
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    root = str(Path(__file__).resolve().parents[len(__package__.split("."))])
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = os.pathsep.join([root, *(str(Path(one).resolve()) for one in given if one)])
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=longest_s,
        check=False,
    )
    told, error = folder / "error.json", None
    if told.is_file():
        found = json.loads(told.read_text(encoding="utf-8"))
        kind = EngineUnavailable if found["kind"] == "EngineUnavailable" else InputError
        error = kind(found["text"])
    return Ended(done.returncode, error, one_line(done.stderr)[-300:])


def answer(folder: Path, work: Callable[[Mapping[str, Any], Path], None]) -> int:
    """Do the child's work and return its exit code; an error of ``work(job, folder)`` is written to
    a file."""
    limit_memory()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    try:
        work(job, folder)
    except (QadtrError, MemoryError) as error:
        text = str(error) or "out of memory"
        told = {"kind": type(error).__name__, "text": text}
        (folder / "error.json").write_text(json.dumps(told), encoding="utf-8")
        return QadtrError.exit_code
    return 0


def limit_memory(spare_bytes: int | None = None) -> None:
    """Limit the address space of this process to the machine's memory, or to the given number of
    bytes more than it has: a larger request fails at once. A crash leaves no core file."""
    try:
        import resource

        page = os.sysconf("SC_PAGE_SIZE")
        if spare_bytes is None:
            most = os.sysconf("SC_PHYS_PAGES") * page
        else:
            most = int(Path("/proc/self/statm").read_text().split()[0]) * page + spare_bytes
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (ImportError, AttributeError, OSError, ValueError):
        pass  # not on this system; the parent still reports a crash
