"""SIGTERM and SIGHUP treated as Ctrl-C: open files are closed and copies are removed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self  # from Python 3.11

GRACE_S = 1.0
"""A second signal so soon is the first one again: `timeout` and `torchrun` send it to the process
and to its group."""

_EXIT_SIGNALLED = 128


class Interrupted(KeyboardInterrupt):
    """A signal ended the work.

    Attributes:
        number: of the signal.
        exit_code: the code that a shell reports for a command killed by the signal: 130, 143, 129.
    """

    def __init__(self, number: int, text: str | None = None) -> None:
        name = signal.Signals(number).name
        super().__init__(f"interrupted by {name}" if text is None else text)
        self.number = number
        self.exit_code = _EXIT_SIGNALLED + number


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Raise :class:`Interrupted` at SIGTERM and SIGHUP; a second one kills.

    Ctrl-C stays Python's KeyboardInterrupt; a signal that is ignored (`nohup`) stays ignored.
    """

    def interrupt(number: int) -> None:
        raise Interrupted(number)

    with _handled(("SIGTERM", "SIGHUP"), interrupt, lambda old: old is signal.SIG_DFL):
        yield


class StopAsked:
    """In a ``with``, records SIGINT, SIGTERM or SIGHUP instead of acting on it, for work that stops
    at its next safe point. A second signal, a second later, kills.

    Attributes:
        by: the number of the first signal; None: none came.
    """

    def __init__(self) -> None:
        self.by: int | None = None
        self._handlers = _handled(
            ("SIGINT", "SIGTERM", "SIGHUP"), self._note, lambda old: old is not signal.SIG_IGN
        )

    def _note(self, number: int) -> None:
        self.by = number

    def __enter__(self) -> Self:
        self._handlers.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._handlers.__exit__(kind, error, traceback)


@contextmanager
def _handled(
    names: tuple[str, ...], act: Callable[[int], None], wanted: Callable[[Any], bool]
) -> Iterator[None]:
    """``act`` on the first of the signals; kill at a later one that is not an echo of it."""
    first: list[float] = []
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process and not first:
            first.append(time.monotonic())
            act(number)
        elif os.getpid() != process or time.monotonic() - first[0] > GRACE_S:
            signal.signal(number, signal.SIG_DFL)  # a forked child has nothing to close
            os.kill(os.getpid(), number)

    before: dict[int, Any] = {}
    for name in names:
        number = getattr(signal, name, None)
        with suppress(ValueError):  # not the main thread, which handles signals
            if number is not None and wanted(signal.getsignal(number)):
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
