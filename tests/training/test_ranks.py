"""Two gloo processes train as one process that accumulates the two half-batches."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from deploy.core.errors import InputError
from tests.training.small_run import saved
from training.checkpoint import CHECKPOINT, RESUME
from training.config import load_config
from training.data import load_images
from training.loop import RunOptions, train
from training.ranks import Ranks, check_batch, join
from training.run_log import LOG
from training.tensors import read_tensors

CONFIG = """
name = "ranks"
seed = 2
[data]
kind = "digits"
size = 16
augment = "crop"
[network]
name = "resnet8"
bit_widths = [32, 8, 4]
[training]
epochs = {epochs}
batch_size = 64
accumulate = {accumulate}
learning_rate = 0.02
{more}
[defense]
name = "qadtr"
sizes_px = [4]
personal_px = 4
targeted = 1
inner_steps = 1
gir = false
gir_penalty = true
penalty_every = 2
penalty_images = 8
"""
ROOT = Path(__file__).parents[2]
CURVE = 0.02
"""Largest relative difference of an epoch's mean loss. The arithmetic differs in the order of its
sums, and one rounded code more or less is all it takes for two curves to part; the running
statistics differ too, which one process updates twice a step and two processes average."""


def _start(config: Path, run: Path, *more: str) -> list[subprocess.Popen[bytes]]:
    """Two processes, as torchrun starts them."""
    words = ["-m", "qadtr", "train", str(config), "--out", str(run), "--save-every", "4", *more]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]


def _finish(started: list[subprocess.Popen[bytes]]) -> None:
    ended = [process.communicate(timeout=300) for process in started]
    for process, (_, errors) in zip(started, ended, strict=True):
        assert process.returncode == 0, errors.decode()[-3000:]
    printed = [out.decode().strip() for out, _ in ended]
    assert all(not text for text in printed[1:]), "only the first rank speaks"


def _alone(config: Path, run: Path) -> None:
    images = load_images("digits", None, "train", size=16)
    holdout = load_images("digits", None, "holdout", size=16)
    train(load_config(config), images, holdout, run, RunOptions(progress=False), dict)


def _losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / LOG).read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ranks")
    start = folder / "start.toml"
    start.write_text(CONFIG.format(epochs=1.0, accumulate=1, more=""), encoding="utf-8")
    _alone(start, folder / "start")
    # From a checkpoint the scales are set, so the two runs begin alike.
    warm = f'warm_start = "{folder / "start" / CHECKPOINT}"'
    for name, accumulate in (("one", 2), ("two", 1)):
        text = CONFIG.format(epochs=2.0, accumulate=accumulate, more=warm)
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    two = _start(folder / "two.toml", folder / "two")
    _alone(folder / "one.toml", folder / "one")
    _finish(two)
    return {name: folder / name for name in ("one", "two")} | {"folder": folder}


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_accumulated_halves(runs: dict[str, Path]) -> None:
    one, two = _losses(runs["one"]), _losses(runs["two"])
    assert len(one) == len(two) == 2
    assert one[1] < one[0]
    for mine, theirs in zip(two, one, strict=True):
        assert mine == pytest.approx(theirs, rel=CURVE)


@pytest.mark.slow
def test_their_weights_are_close_and_their_pools_the_same_size(runs: dict[str, Path]) -> None:
    one, _ = read_tensors(runs["one"] / RESUME)
    two, _ = read_tensors(runs["two"] / RESUME)
    assert one.keys() == two.keys()
    weights = [n for n in one if n.startswith("network.") and one[n].ndim == 4]
    for name in weights:
        apart = float((one[name] - two[name]).norm() / one[name].norm())
        assert apart < 0.1, name
    # Rounding turns a few signs, more with every step. A pool that learned on one rank alone would
    # lack a step of half of its patches, and a third of the pixels would be equal.
    pool = "defense.personal.patches"
    equal = float((one[pool] == two[pool]).float().mean())
    assert equal > 0.6


@pytest.mark.slow
def test_two_killed_processes_resume_to_the_same_bytes(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    config, broken = runs["folder"] / "two.toml", tmp_path / "broken"
    started = _start(config, broken)
    deadline = time.monotonic() + 200
    while not (broken / RESUME).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (broken / RESUME).exists()
    assert not (broken / CHECKPOINT).exists()
    _finish(_start(config, broken, "--resume"))
    assert (broken / CHECKPOINT).read_bytes() == (runs["two"] / CHECKPOINT).read_bytes()


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    config, broken = runs["folder"] / "two.toml", tmp_path / "broken"
    started = _start(config, broken, "--set", "training.epochs=50.0")
    deadline = time.monotonic() + 200
    while not (broken / RESUME).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    started[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60)[1].decode() for process in started]
    assert [process.returncode for process in started] == [143, 143], said
    step = saved(broken)["step"]
    assert all(f"after step {step} of" in text.splitlines()[-1] for text in said), said


def test_one_process_by_itself_sends_nothing() -> None:
    alone = Ranks()
    tensor = torch.arange(3.0)
    assert alone.gathered(tensor) is tensor
    assert alone.average([tensor, None], [tensor, tensor]) == [tensor, None]
    assert alone.slice_of(64) == slice(0, 64)


def test_incomplete_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="RANK, MASTER_ADDR, MASTER_PORT is not"):
        join("cpu")


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="multiple of 6"):
        check_batch(64, 2, Ranks(0, 3))
