"""Progress as log lines where there is no terminal."""

from __future__ import annotations

import logging

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
