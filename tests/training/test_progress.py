"""Progress as log lines where there is no terminal."""

from __future__ import annotations

import logging
import time

import pytest

from training.progress import Progress


def test_the_end_is_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress("patches", 3) as bar:
        bar.advance(2)
        bar.advance(note="ASR 40%")
    (line,) = caplog.messages
    assert line.startswith("patches: 3 of 3, ")
    assert line.endswith("s, ASR 40%")


def test_unshown_progress_says_nothing(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO), Progress("patches", 1, shown=False) as bar:
        bar.advance()
    assert not caplog.messages
    assert capsys.readouterr().err == ""


def test_lines_tell_the_time_left_and_grow_rarer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 20_000, 5))
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    with caplog.at_level(logging.INFO), Progress("steps", 2001, done=1) as bar:
        for _ in range(2000):
            bar.advance()
    lines = [line for line in caplog.messages if line.startswith("steps: ")]
    assert lines[0] == "steps: 4 of 2001, 15 s, about 166 min left"
    assert lines[-1] == "steps: 2001 of 2001, 10000 s"
    # One every 15 s would be 666; every 15 s for 750 s, then 2% later each.
    assert 150 < len(lines) < 200
