"""The progress of long work, on a terminal and elsewhere."""

from __future__ import annotations

import io

from qadtr.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_are_few_and_the_last_is_the_end() -> None:
    stream = io.StringIO()
    progress = Progress("work", stream=stream)
    for done in range(1, 1001):
        progress(done, 1000)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2  # the first call and the last; nothing of the milliseconds between
    assert lines[-1].startswith("work: 100%")


def test_a_bar_stays_on_its_line_until_the_end() -> None:
    stream = Terminal()
    progress = Progress("work", stream=stream)
    progress(1, 4)
    assert "25%" in stream.getvalue()
    assert "\n" not in stream.getvalue()
    progress(4, 4)
    progress(4, 4)
    assert stream.getvalue().count("\n") == 1
    assert "100%" in stream.getvalue()
