"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_WIDTH = 30
_BAR_SECONDS = 0.1
_LINE_SECONDS = 15.0


class Progress:
    """One bar. Call it with (done, total) as often as you like; it prints seldom.

    Args:
        label: what is under way.
        stream: where to print; a bar is drawn only where `stream` is a terminal.
    """

    def __init__(self, label: str, *, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._on_terminal = self._stream.isatty()
        self._start = time.monotonic()
        self._last = -1e9
        self._ended = False

    def __call__(self, done: int, total: int) -> None:
        """Show `done` of `total` (any unit, total ≥ 1); the last call has done = total."""
        if self._ended:
            return
        now = time.monotonic()
        ended = done >= total
        pause = _BAR_SECONDS if self._on_terminal else _LINE_SECONDS
        if now - self._last < pause and not ended:
            return
        self._last, self._ended = now, ended
        elapsed_s = now - self._start
        share = done / max(total, 1)
        remaining_s = elapsed_s / share - elapsed_s if share > 0 else 0.0
        if self._on_terminal:
            bar = "━" * round(_WIDTH * share)
            tail = f"{elapsed_s:.0f} s" if ended else f"{remaining_s:.0f} s left"
            line = f"\r{self._label:<34.34} {bar:<{_WIDTH}} {share:4.0%} {tail:<12}"
            self._stream.write(line + ("\n" if ended else ""))
        else:
            self._stream.write(f"{self._label}: {share:.0%} after {elapsed_s:.0f} s\n")
        self._stream.flush()
