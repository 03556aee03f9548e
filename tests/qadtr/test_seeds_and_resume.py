"""Several seeds in one command, and a run that is resumed from its folder alone."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qadtr.__main__ import main
from tests.qadtr.test_train_command import CONFIG, refusal


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(CONFIG)
    return path


def stopped_at(config: Path, folder: Path, step: int) -> None:
    """The run as a kill after that step leaves it, with what the command wrote when it began."""
    from training import loop

    @dataclass(frozen=True, kw_only=True)
    class Cut(loop.RunOptions):
        stop_after: int | None = step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "RunOptions", Cut)
        words = ["train", str(config), "--out", str(folder), "--save-every", "4"]
        assert main(words) == 0


def test_the_folder_is_all_that_resuming_needs(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert main(["train", str(config), "--out", str(unbroken), "--save-every", "4"]) == 0
    stopped_at(config, broken, 8)
    assert not (broken / "checkpoint.safetensors").exists()
    config.unlink()
    assert main(["train", "--resume", "--out", str(broken)]) == 0
    one, other = (folder / "checkpoint.safetensors" for folder in (unbroken, broken))
    assert one.read_bytes() == other.read_bytes()
    kept = json.loads((broken / "run.json").read_text())
    assert (kept["save_every"], kept["device"], kept["data"]) == (4, "cpu", None)


def test_what_differs_is_named(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    stopped_at(config, folder, 4)
    capsys.readouterr()
    words = ["train", str(config), "--resume", "--out", str(folder)]
    line = refusal([*words, "--set", "training.learning_rate=0.2", "--seed", "9"], capsys)
    assert (
        "seed is 9, but the run has 3; training.learning_rate is 0.2, but the run has 0.1" in line
    )
    assert f"qadtr train --resume --out {folder}" in line
    given = ["train", "--resume", "--out", str(folder)]
    assert "--set has no effect on a run that is resumed" in refusal(
        [*given, "--set", "seed=4"], capsys, code=4
    )
    assert "--out RUN" in refusal(["train", "--resume"], capsys, code=4)
    assert "CONFIG is needed" in refusal(["train"], capsys, code=4)
    assert "nothing to resume" in refusal(["train", "--resume", "--out", str(tmp_path)], capsys)
    (folder / "run.json").write_text('{"format": "qadtr-run", "format_version": 1}')
    assert "damaged" in refusal(given, capsys)


def test_one_command_trains_several_seeds(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(config), "--set", "training.epochs=0.05", "--out", str(tmp_path / "run")]
    assert main([*words, "--seed", "1", "2"]) == 0
    folders = [tmp_path / f"run-seed{seed}" for seed in (1, 2)]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(folder / "checkpoint.safetensors") for folder in folders]
    seeds = [json.loads((f / "checkpoint.json").read_text())["config"]["seed"] for f in folders]
    assert seeds == [1, 2]
    # Nothing is trained again, and nothing before all of it is known to be free.
    line = refusal([*words, "--seed", "5", "2"], capsys, code=4)
    assert "run-seed2 already holds a run" in line
    assert not (tmp_path / "run-seed5").exists()
    assert "twice" in refusal([*words, "--seed", "5", "5"], capsys, code=4)
    # Those that were not reached begin.
    assert main([*words, "--seed", "2", "6", "--resume"]) == 0
    assert (tmp_path / "run-seed6" / "checkpoint.safetensors").exists()


def test_holdout_accuracy_by_epoch_and_bit_width(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    with caplog.at_level(logging.INFO):
        words = ["train", str(config), "--out", str(folder), "--set", "training.epochs=2"]
        assert main([*words, "--set", 'defense.name="qat"', "--set", "training.ema=0.9"]) == 0
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [sorted(row["holdout_accuracy"]) for row in rows] == [["2", "32"], ["2", "32"]]
    # The digits' hold-out has fewer images than are watched: the last row is the checkpoint's.
    final = json.loads((folder / "checkpoint.json").read_text())["holdout_accuracy"]
    assert rows[-1]["holdout_accuracy"] == final
    said = [m for m in caplog.messages if "hold-out accuracy by bits" in m]
    assert len(said) == 2
    assert f"float {100 * final['32']:.1f}%, 2 {100 * final['2']:.1f}%" in said[-1]
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("holdout_accuracy/2_bits")
    assert [round(one.value, 5) for one in scalars] == [
        round(row["holdout_accuracy"]["2"], 5) for row in rows
    ]


def test_a_dry_run_says_what_it_does(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert main(["train", str(config), "--dry-run", "--out", str(tmp_path / "r")]) == 0
    assert any("10 real steps" in message for message in caplog.messages)
    assert any(message.startswith("dry run: 10 of 10") for message in caplog.messages)
