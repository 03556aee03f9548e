"""`make test-resume`: a run killed at twenty random moments ends with the unbroken run's bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.small_run import saved
from training.checkpoint import CHECKPOINT, RESUME, read_sidecar
from training.run_log import LOG

KILLS = 20
STEPS_BETWEEN = (1, 12)
"""A kill falls this many saved steps after its process continued, and anywhere within a step."""

CONFIG = """
name = "killed"
seed = 5
[data]
kind = "digits"
size = 16
augment = "crop"
[network]
name = "resnet8"
bit_widths = [32, 8, 4, 2]
[training]
epochs = 9.0
batch_size = 64
ema = 0.9
learning_rate = 0.05
[distillation]
weight = 0.5
[defense]
name = "qadtr"
sizes_px = [4]
personal_px = 4
shapes = ["square", "circle"]
schedule = "sandwich"
targeted = 1
turn = true
placements = ["random", "corners", "posed"]
restart_after = 2
gir_penalty = true
penalty_every = 2
"""


def _start(config: Path, run: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["-m", "qadtr", "train", str(config), "--out", str(run), "--save-every", "1", *more]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()[-2000:]


def _step(run: Path) -> int:
    return int(saved(run)["step"])


@pytest.mark.resume
def test_twenty_kills_leave_the_bytes_of_an_unbroken_run(tmp_path: Path) -> None:
    config = tmp_path / "killed.toml"
    config.write_text(CONFIG, encoding="utf-8")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _finish(_start(config, whole))
    chance = random.Random(0)
    killed_at: list[int] = []
    while len(killed_at) < KILLS:
        process = _start(config, broken, *(["--resume"] if killed_at else []))
        until = _step(broken) + chance.randint(*STEPS_BETWEEN)
        while _step(broken) < until and process.poll() is None:
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 0.1))
        assert process.poll() is None, "the run ended before its kill: lengthen it"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (broken / CHECKPOINT).exists()
        killed_at.append(_step(broken))
    assert len(set(killed_at)) > KILLS // 2, killed_at
    _finish(_start(config, broken, "--resume"))
    print(f"killed after steps {killed_at}")
    for file in (CHECKPOINT, RESUME, LOG):
        assert (broken / file).read_bytes() == (whole / file).read_bytes(), file
    ours, theirs = (read_sidecar(folder / CHECKPOINT)["history"] for folder in (broken, whole))
    assert ours == theirs
    assert not [path for path in broken.rglob(".*") if path.is_file()]
