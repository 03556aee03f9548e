"""Readers tried in processes of their own, which are ended when an input hangs or takes too much.

The processes are forked, so that all of them share one import of torch. Only the parent looks at
the clock: an input that hangs in C is ended as one that hangs in Python.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.trial import (
    CPU_SECONDS,
    Outcome,
    Reader,
    fault_of_what_was_said,
    input_of,
    limit_memory,
    silence,
    tried,
)

CLOCK_SECONDS = 12 * CPU_SECONDS
"""For an input that waits; on a machine with other work one that computes may take as long."""
_TICK_SECONDS = 0.2


@dataclass
class Summary:
    """What a reader did.

    Attributes:
        inputs, refused: tried, and refused as promised; the others were read.
        seconds: of processor time in all; ``longest`` of one input.
        mib: the most resident memory of one input above what was there before it.
        findings: a line each, with the seed.
    """

    reader: str
    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    mib: float = 0.0
    findings: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one input."""
        self.inputs += 1
        self.refused += outcome.refused
        self.seconds += outcome.seconds
        self.longest = max(self.longest, outcome.seconds)
        self.mib = max(self.mib, outcome.mib)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is tried.

    Attributes:
        seconds: of the clock for each reader, or None: its ``tries``.
        first_seed: of each reader.
        found: a folder for inputs that gave a finding.
    """

    seconds: float | None = None
    first_seed: int = 0
    found: Path | None = None


class _Worker:
    """A process that tries seeds of one reader, from one seed on."""

    def __init__(self, reader: Reader, seed: int, extent: Extent, end: float) -> None:
        self.seed: int | None = None
        self.next_seed = seed
        self._begun = (0.0, 0.0)
        self._rest = b""
        ours, theirs = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(ours)
            _work(reader, seed, extent, end, theirs)
        os.close(theirs)
        self.pipe = ours

    def messages(self) -> Iterator[dict[str, Any] | None]:
        """What it has said; None at its end."""
        data = os.read(self.pipe, 1 << 16)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "begin" in message:
                self.seed, self.next_seed = message["begin"], message["begin"] + 1
                self._begun = (time.monotonic(), self._cpu())
            else:
                self.seed = None
            yield message
        if not data:
            yield None

    def too_long(self) -> str | None:
        """What its input has taken too much of."""
        if self.seed is None:
            return None
        clock, cpu = time.monotonic() - self._begun[0], self._cpu() - self._begun[1]
        if cpu > CPU_SECONDS:
            return f"more than {CPU_SECONDS} s of processor time"
        return f"no end after {clock:.0f} s" if clock > CLOCK_SECONDS else None

    def stop(self) -> int:
        """End it and what it started; returns its wait status."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.close(self.pipe)
        return os.waitpid(self.pid, 0)[1]

    def _cpu(self) -> float:
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _work(reader: Reader, seed: int, extent: Extent, end: float, pipe: int) -> None:
    """The whole life of a worker."""
    try:
        os.setpgid(0, 0)
        said = silence()
        limit_memory()
        files = len(reader.files())
        last = float("inf") if extent.seconds else extent.first_seed + reader.tries
        while seed < last and (time.monotonic() < end or seed < files):
            _say(pipe, {"begin": seed})
            name, data = input_of(reader, seed)
            outcome = asdict(tried(reader, name, data, undamaged=seed < files))
            outcome["fault"] = outcome["fault"] or fault_of_what_was_said(said)
            _say(pipe, outcome)
            seed += 1
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a fault of the mutations: the parent raises it
        with suppress(OSError):
            _say(pipe, {"broken": f"seed {seed}: {traceback.format_exc()}"})
    finally:
        os._exit(1)


def _say(pipe: int, message: dict[str, Any]) -> None:
    os.write(pipe, json.dumps(message).encode() + b"\n")


def run(reader: Reader, extent: Extent) -> Summary:
    """Try one reader; an input that ends its process is a finding, and the next process goes on."""
    summary = Summary(reader.name)
    end = time.monotonic() + (extent.seconds or float("inf"))
    seed, ended = extent.first_seed, False
    while not ended:
        worker = _Worker(reader, seed, extent, end)
        fault: str | None = None
        while fault is None and not ended:
            if select.select([worker.pipe], [], [], _TICK_SECONDS)[0]:
                for message in worker.messages():
                    if message is None:
                        ended = True
                    elif "broken" in message:
                        worker.stop()
                        raise AssertionError(f"{reader.name}, {message['broken']}")
                    elif "begin" in message:
                        seed = message["begin"]
                    else:
                        outcome = Outcome(**message)
                        summary.add(outcome)
                        if outcome.fault is not None:
                            _find(summary, reader, seed, outcome.fault, extent.found)
            if not ended:
                fault = worker.too_long()
        status = worker.stop()
        if ended and os.waitstatus_to_exitcode(status) != 0 and worker.seed is not None:
            fault, ended = f"its process died ({os.waitstatus_to_exitcode(status)})", False
        if fault is not None:
            summary.add(Outcome(refused=False, fault=fault, seconds=CPU_SECONDS, mib=0))
            _find(summary, reader, seed, fault, extent.found)
            seed = worker.next_seed
    return summary


def _find(summary: Summary, reader: Reader, seed: int, fault: str, found: Path | None) -> None:
    summary.findings.append(f"{reader.name} {seed}: {fault}")
    if found is not None:
        name, data = input_of(reader, seed)
        folder = found / reader.name / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
