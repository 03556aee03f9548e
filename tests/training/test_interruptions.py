"""Signals, the clock, a second training: what a run folder keeps of one that ends early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.core.errors import InputError, UsageError
from deploy.core.signals import GRACE_S, Interrupted, StopAsked
from qadtr.__main__ import main
from tests.training.small_run import saved, small_config
from training.checkpoint import CHECKPOINT, RESUME, read_sidecar
from training.data import ImageSet
from training.loop import RunOptions, TrainingRun
from training.run_lock import LOCK, run_lock
from training.run_log import LOG
from training.tensors import read_tensors, tensor_bytes
from training.trainer import Taken, Trainer

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
RARELY = RunOptions(progress=False, save_every=10**6)


@pytest.fixture(autouse=True)
def _as_on_a_terminal() -> Iterator[None]:
    """A test run in the background ignores some signals."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.fixture
def made(small_digits: ImageSet, small_holdout: ImageSet) -> Callable[..., TrainingRun]:
    """A run of ten steps in two epochs and a half."""

    def make(folder: Path, options: RunOptions = RARELY, **changes: object) -> TrainingRun:
        settings = {"training": {"epochs": 2.5, "batch_size": 32}, **changes}
        few = replace(
            small_digits, images=small_digits.images[:128], labels=small_digits.labels[:128]
        )
        return TrainingRun(small_config(**settings), few, small_holdout, folder, options)

    return make


def signal_in_step(
    monkeypatch: pytest.MonkeyPatch, step: int, number: int, times: int = 1, pause_s: float = 0.0
) -> None:
    """Each training in this process gets the signal in that step, so many times."""
    whole = Trainer.one_step

    def one_step(trainer: Trainer, asked: StopAsked | None = None) -> Taken:
        if trainer.step == step:
            for _ in range(times):
                os.kill(os.getpid(), number)
                time.sleep(pause_s)
        return whole(trainer, asked)

    monkeypatch.setattr(Trainer, "one_step", one_step)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_saves_the_step_it_came_in_and_the_resumed_run_is_the_unbroken_one(
    name: str, made: Callable[..., TrainingRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    made(unbroken).finish(dict)
    number = getattr(signal, name)
    with monkeypatch.context() as patched:
        signal_in_step(patched, 5, number, times=2)  # as `timeout` and torchrun send it
        with pytest.raises(Interrupted, match=f"by {name} after step 6 of 10.*--resume") as told:
            made(broken).finish(dict)
    assert told.value.exit_code == 128 + number
    assert saved(broken)["step"] == 6
    assert not (broken / CHECKPOINT).exists()
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)

    made(broken, RunOptions(progress=False, resume=True)).finish(dict)
    for file in (CHECKPOINT, RESUME, LOG):
        assert (broken / file).read_bytes() == (unbroken / file).read_bytes(), file
    ours, theirs = (read_sidecar(folder / CHECKPOINT) for folder in (broken, unbroken))
    assert ours["history"] == theirs["history"]
    assert [row["step"] for row in ours["history"]] == [4, 8, 10]
    assert ours["images_per_s"] > 0.0


def test_a_second_signal_kills(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "from deploy.core.signals import StopAsked\n"
        "with StopAsked():\n"
        "    os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM)\n"
        f"    time.sleep({GRACE_S + 0.1})\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=30)
    assert done.returncode == -signal.SIGTERM


def test_a_signal_in_the_last_step_ends_without_a_checkpoint(
    made: Callable[..., TrainingRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        signal_in_step(patched, 9, signal.SIGTERM)
        with pytest.raises(Interrupted, match="after step 10 of 10"):
            made(tmp_path).finish(dict)
    made(tmp_path, RunOptions(progress=False, resume=True)).finish(dict)
    assert read_sidecar(tmp_path / CHECKPOINT)["images_per_s"] is None  # nothing was left to train


def test_a_state_is_saved_by_time_too(
    made: Callable[..., TrainingRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "training.loop.RunState.write",
        lambda state, folder: steps.append(state.step),
    )
    steps: list[int] = []
    made(tmp_path, RunOptions(progress=False, save_every=4, save_seconds=1e-9)).finish(dict)
    assert steps == list(range(1, 11))
    steps.clear()
    made(tmp_path, RunOptions(progress=False, save_every=4)).finish(dict)
    assert steps == [4, 8, 10]


def test_one_training_at_a_time(made: Callable[..., TrainingRun], tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(InputError, match=rf"another .*process {os.getpid()}"):
        made(tmp_path).finish(dict)
    assert not (tmp_path / CHECKPOINT).exists() and not (tmp_path / RESUME).exists()
    with run_lock(tmp_path):  # free again; what is in the file is the last holder
        assert (tmp_path / LOCK).read_text().count("process") == 1


def test_a_run_that_came_since_the_start_is_not_replaced_unasked(
    made: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    waiting = made(tmp_path, RunOptions(progress=False, overwrite=False))
    made(tmp_path).finish(dict)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(UsageError, match="already holds a run"):
        waiting.finish(dict)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"course": []}, "course must be a table"),
        ({"course": {"history": [], "loss": "low"}}, "course.loss must be a number"),
        ({"course": {"history": [], "lost": 1}}, "unknown key 'course.lost'"),
        ({"step": -1}, "step must be at least 0"),
        ({"run": "0"}, "another config"),
    ],
)
def test_a_damaged_state_is_one_line_that_names_the_file(
    damage: dict[str, object], words: str, made: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    made(tmp_path, RunOptions(progress=False, stop_after=1)).finish(dict)
    metadata = {"run_state": json.dumps({**saved(tmp_path), **damage})}
    tensors, _ = read_tensors(tmp_path / RESUME)
    (tmp_path / RESUME).write_bytes(tensor_bytes(tensors, metadata))
    with pytest.raises(InputError, match=words) as told:
        made(tmp_path, RunOptions(progress=False, resume=True)).finish(dict)
    assert str(tmp_path / RESUME) in str(told.value)


def test_a_state_of_before_the_sums_were_kept_is_resumed(
    made: Callable[..., TrainingRun], tmp_path: Path
) -> None:
    made(tmp_path, RunOptions(progress=False, stop_after=4)).finish(dict)
    tensors, _ = read_tensors(tmp_path / RESUME)
    facts = saved(tmp_path)
    row = {**facts["course"]["history"][0], "images_per_s": 9.0}
    older = {"run": facts["run"], "step": "4", "history": json.dumps([row])}
    (tmp_path / RESUME).write_bytes(tensor_bytes(tensors, older))
    made(tmp_path, RunOptions(progress=False, resume=True)).finish(dict)
    assert [row["step"] for row in read_sidecar(tmp_path / CHECKPOINT)["history"]] == [4, 8, 10]


def test_the_command_says_how_to_go_on_and_its_exit_code_is_the_signals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "small.toml"
    config.write_text(
        'name = "small"\nseed = 3\n[data]\nkind = "digits"\nsize = 16\n'
        '[network]\nname = "resnet8"\nbit_widths = [32, 2]\n'
        '[training]\nepochs = 0.1\nbatch_size = 32\n[defense]\nname = "qat"\n'
    )
    words = ["train", str(config), "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        signal_in_step(patched, 1, signal.SIGTERM)
        assert main(words) == 143
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("qadtr: interrupted by SIGTERM after step 2 of 4; the state is saved in")
    assert said.endswith("--resume continues from it")
    assert main([*words, "--resume"]) == 0
