"""One input and one reader: it is read, or refused in one line that names the file."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from deploy.core.errors import QadtrError
from deploy.core.text import printable
from tests.fuzz.mutation import Mutate, mutated

CORPUS = Path(__file__).parent / "corpus"
CPU_SECONDS = 10
"""Of processor time, that one input may take."""
LONGEST_ERROR = 2000
"""Characters: an error is one line for somebody to read."""

_MIB = 1 << 20
_IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where inputs are written: most of the time goes into waiting for a disk elsewhere."""
_FUSE_BYTES = 4 << 30
"""Address space above what is there before: an input that would take the machine's memory fails."""
_NO_MEMORY = re.compile("bad.?alloc|out of memory|unable to allocate|not enough memory", re.I)

Place = Callable[[Path, str, bytes], Path]


def place(folder: Path, name: str, data: bytes) -> Path:
    """Write the input under its corpus file's name: what most readers open."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One way into the project.

    Attributes:
        name: in the table of the documents.
        about: what it reads, for that table.
        corpus: patterns of the corpus files that are damaged.
        read: what opens the file that was placed.
        mutate: how an input is made of a file of the corpus.
        place: writes an input into an empty folder; gives the path that is read.
        names: what an error must hold; by default the path's name without its ending.
        mib: of resident memory that one input may take above what is there before it, in MiB.
        tries: inputs of the short form, that `make test-slow` has.
    """

    name: str
    about: str
    corpus: tuple[str, ...]
    read: Callable[[Path], object]
    mutate: Mutate = mutated
    place: Place = place
    names: str | None = None
    mib: int = 512
    tries: int = 100

    def files(self) -> list[Path]:
        """Of the corpus, sorted."""
        found = sorted(path for one in self.corpus for path in CORPUS.glob(one))
        assert len(found) >= len(self.corpus), f"the corpus lacks {self.corpus}"
        return found


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one input gave.

    Attributes:
        refused: by an error as promised.
        fault: what is wrong; None where it was read or refused as promised.
        seconds: of processor time.
        mib: of resident memory above what was there before.
    """

    refused: bool
    fault: str | None
    seconds: float
    mib: float


def input_of(reader: Reader, seed: int) -> tuple[str, bytes]:
    """Name and bytes of an input: first the files of the corpus as they are, then mutations."""
    files = reader.files()
    if seed < len(files):
        return files[seed].name, files[seed].read_bytes()
    rng = Random(f"{reader.name} {seed}")
    path = rng.choice(files)
    return path.name, reader.mutate(rng, path.read_bytes())


def tried(reader: Reader, name: str, data: bytes, *, undamaged: bool = False) -> Outcome:
    """Give an input to its reader, in this process.

    Args:
        undamaged: then it must be read.
    """
    folder = Path(tempfile.mkdtemp(prefix="qadtr-fuzz-", dir=_IN_MEMORY))
    refused, fault = False, None
    path = reader.place(folder, name, data)
    _give_back_free_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before, begun = _resident("VmRSS"), time.process_time()
    try:
        with warnings.catch_warnings(action="ignore"):
            reader.read(path)
    except QadtrError as error:
        refused = True
        named = path.stem if reader.names is None else reader.names
        fault = _fault_of_error(error, named, undamaged=undamaged)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        where = traceback.extract_tb(error.__traceback__)[-1]
        fault = (
            f"{type(error).__name__}: {str(error)[:300]!r} at {Path(where.filename).name}:"
            f"{where.lineno}"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    mib = max(0, _resident("VmHWM") - before) / 1024
    if fault is None and mib > reader.mib:
        fault = f"{mib:,.0f} MiB of memory, at most {reader.mib} are promised"
    return Outcome(refused=refused, fault=fault, seconds=time.process_time() - begun, mib=mib)


def _fault_of_error(error: QadtrError, named: str, *, undamaged: bool) -> str | None:
    text = error.line  # as every command prints it
    if undamaged:
        return f"a file of the corpus is refused: {text}"
    if len(text.splitlines()) != 1 or printable(str(error)) != str(error):
        return f"not one line of plain text: {text[:300]!r}"
    if len(text) > LONGEST_ERROR:
        return f"an error of {len(text):,} characters: {text[:300]}"
    if named not in text:
        return f"the error does not name the file: {text[:300]}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or _NO_MEMORY.search(str(cause)):
            return f"only the limit of memory stopped it: {text[:300]}"
        cause = cause.__cause__ or cause.__context__
    return None


def _give_back_free_memory() -> None:
    """Let the next memory that this process takes be new to it, and so be counted.

    The heap keeps what was freed, here and in the process that this one was forked from.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)


def _resident(what: str) -> int:
    """Of this process, in KiB: "VmRSS" now, "VmHWM" at its peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{what}:")[2].split()[0])


def limit_memory() -> None:
    """Let this process take no more than 4 GiB of address space above what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _FUSE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def silence() -> int:
    """Send what this process prints into a file without a name, and return its descriptor."""
    said = os.memfd_create("said")
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(said, 1)
    os.dup2(said, 2)
    return said


def fault_of_what_was_said(said: int) -> str | None:
    """A traceback among what was printed since the last call, of a thread or of another process."""
    sys.stdout.flush()
    sys.stderr.flush()
    size = os.fstat(said).st_size
    text = os.pread(said, min(size, _MIB), max(0, size - _MIB)).decode(errors="replace")
    os.ftruncate(said, 0)
    os.lseek(said, 0, os.SEEK_SET)
    _, traced, rest = text.partition("Traceback (most recent call last)")
    return f"a traceback was printed: {rest.strip().splitlines()[-1][:300]}" if traced else None
