"""Progress of long work: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """A count up to ``total`` of what ``title`` names.

    On a terminal it is a tqdm bar on the error stream; elsewhere a log line at level INFO every
    15 seconds, so that a log file stays short. ``shown=False`` does neither.
    """

    def __init__(self, title: str, total: int, *, shown: bool = True) -> None:
        self._title = title
        self._total = total
        self._done = 0
        on_terminal = sys.stderr.isatty()
        self._lines = shown and not on_terminal
        self._bar = tqdm(total=total, desc=title, disable=not (shown and on_terminal))
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count ``count`` more as done; ``note`` is shown behind the count."""
        self._done += count
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        now = time.monotonic()
        finished = self._done >= self._total
        if self._lines and (finished or now - self._last_line >= _SECONDS_BETWEEN_LINES):
            self._last_line = now
            logging.getLogger(__name__).info(
                "%s: %d of %d, %.0f s%s",
                self._title,
                self._done,
                self._total,
                now - self._started,
                f", {note}" if note else "",
            )
