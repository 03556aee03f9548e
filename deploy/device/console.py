"""The output for the person at the device: lines, and a bar on a terminal."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from ..core.colour import Colour, coloured

_BAR_CHARACTERS = 30
_SECONDS_BETWEEN_DRAWINGS = 0.1
_SECONDS_BETWEEN_LINES = 15.0


class Console:
    """Lines on ``out``; progress on ``err``, as a bar where that is a terminal.

    Elsewhere, progress is a line every 15 seconds, so that a log stays short. Characters that the
    stream cannot show are replaced, so that a device without UTF-8 does not fail on a "×". A stream
    that is closed, or no longer read, has no effect: the verdict is the exit code and the report.
    """

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        # A stream is None where the process was started without it.
        self._out: TextIO | None = sys.stdout if out is None else out
        self._err: TextIO | None = sys.stderr if err is None else err
        self._bar = self._err is not None and not self._err.closed and self._err.isatty()
        self._drawn = False
        self._last = -_SECONDS_BETWEEN_LINES

    def say(self, line: str, *, outcome: str = "") -> None:
        """Write one line; ``outcome``: the word "pass", "fail", … in it, to be coloured."""
        self._clear()
        _write(self._out, f"{_shown(line, outcome, self._out)}\n")

    def complain(self, line: str) -> None:
        """Write one line to the error stream."""
        self._clear()
        _write(self._err, f"{_shown(line, 'error', self._err)}\n")

    def progress(self, title: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done."""
        now = time.monotonic()
        pause = _SECONDS_BETWEEN_DRAWINGS if self._bar else _SECONDS_BETWEEN_LINES
        if now - self._last < pause and not (self._bar and done >= total):
            return
        self._last = now
        if self._bar:
            full = _BAR_CHARACTERS * done // max(total, 1)
            bar = "#" * full + "." * (_BAR_CHARACTERS - full)
            _write(self._err, f"\r{title} [{bar}] {done}/{total}")
            self._drawn = True
        else:
            _write(self._err, f"{title}: {done} of {total}\n")

    def _clear(self) -> None:
        if self._drawn:
            _write(self._err, "\r\033[K")
            self._drawn = False


_COLOURS: dict[str, Colour] = {
    "pass": "green",
    "fail": "red",
    "undecided": "yellow",
    "error": "red",
}


def _shown(line: str, outcome: str, stream: TextIO | None) -> str:
    """The line with its outcome in colour: that of a gate, the verdict, or all of an error."""
    colour = _COLOURS.get(outcome)
    if outcome == "error":
        before, found, after = line.partition(":")
        return f"{coloured(before + found, colour, stream)}{after}"
    for start, word, end in ((": ", outcome, ": "), ("", outcome.upper(), " (exit code")):
        before, found, after = line.partition(f"{start}{word}{end}")
        if outcome and found:
            return f"{before}{start}{coloured(word, colour, stream)}{end}{after}"
    return line


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except ValueError:  # closed
        pass
    except OSError:  # nobody reads it, or its disk is full
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Redirect the stream to nowhere, so that Python's last flush does not exit with code 120."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # it has no file
        pass
