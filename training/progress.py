"""Progress of long work: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import Self

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 15.0
_SHARE_BETWEEN_LINES = 0.02


class Progress:
    """A count up to ``total`` of what ``title`` names, from ``done`` on.

    On a terminal it is a tqdm bar on the error stream; elsewhere a log line at level INFO every
    15 seconds, and less often the longer it takes (a fiftieth of the time so far), so that a log
    file stays short. ``shown=False`` does neither.
    """

    def __init__(
        self, title: str, total: int, *, done: int = 0, shown: bool = True, unit: str = "it"
    ) -> None:
        self._title = title
        self._total = total
        self._first = self._done = done
        on_terminal = sys.stderr.isatty()
        self._lines = shown and not on_terminal
        disabled = not (shown and on_terminal)
        self._bar = tqdm(total=total, initial=done, desc=title, disable=disabled, unit=unit)
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar in its last state; nothing is counted after that."""
        self._bar.close()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count ``count`` more as done; ``note`` is shown after the count."""
        self._done += count
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        if not self._lines:
            return
        now = time.monotonic()
        since = now - self._started
        due = self._last_line + max(_SECONDS_BETWEEN_LINES, _SHARE_BETWEEN_LINES * since)
        finished = self._done >= self._total
        if not finished and now < due:
            return
        self._last_line = now
        left = "" if finished else f", about {self._left(since)} left"
        logging.getLogger(__name__).info(
            "%s: %d of %d, %.0f s%s%s",
            self._title,
            self._done,
            self._total,
            since,
            left,
            f", {note}" if note else "",
        )

    def reach(self, done: int, total: int) -> None:
        """Count up to ``done``: a callback for code that has no bar of its own."""
        del total  # known from the start
        self.advance(done - self._done)

    def _left(self, since: float) -> str:
        seconds = since * (self._total - self._done) / max(self._done - self._first, 1)
        return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
