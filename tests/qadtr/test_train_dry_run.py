"""`qadtr train --dry-run`."""

from __future__ import annotations

from pathlib import Path

import pytest

from qadtr.__main__ import main
from tests.qadtr.test_train_command import CONFIG


def test_a_dry_run_prints_the_cost_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "small.toml"
    config.write_text(CONFIG)
    folder = tmp_path / "run"
    assert main(["train", str(config), "--out", str(folder), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for word in ("parameters", "memory", "images/s", "time", '"bit_widths"'):
        assert word in printed
    assert not folder.exists()


def test_a_dry_run_continues_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "small.toml"
    config.write_text(CONFIG)
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(config), "--dry-run", "--resume"])
    assert stopped.value.code == 4
    assert "not allowed with" in capsys.readouterr().err
