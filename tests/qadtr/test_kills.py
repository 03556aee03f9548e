"""`make test-kills`: six commands killed at forty random moments leave whole files or none, and the
same commands, started again, end with the bytes of those that were never killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

from deploy.core.npz import read_npz
from deploy.core.patch_set import read_patch_set
from deploy.core.records import read_records
from deploy.core.strict_json import parse_json, read_json
from deploy.device.bundle_reading import Bundle
from training.checkpoint import CHECKPOINT, RESUME, read_sidecar
from training.run_lock import LOCK
from training.run_log import LOG
from training.tensors import read_tensors

ROOT = Path(__file__).parents[2]
EARLIEST = 0.2
"""Of a command's time: before that it only imports."""

CONFIG = """
name = "killed"
seed = 5
[data]
kind = "digits"
size = 16
augment = "crop"
[network]
name = "resnet8"
bit_widths = [32, 4]
[training]
epochs = 6.0
batch_size = 64
learning_rate = 0.05
[defense]
name = "qadtr"
sizes_px = [4]
personal_px = 4
"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command line, how often it is killed, and what it needs when it is started again."""

    words: tuple[str, ...]
    kills: int
    again: tuple[str, ...] = ()


QADTR = ("-m", "qadtr")
PATCH = ("--attack", "lavan", "--size", "5", "--images", "100", "--steps", "60")
COMMANDS = (
    Command(
        words=(*QADTR, "train", "killed.toml", "--out", "run", "--save-every", "2"),
        kills=10,
        again=("--resume",),
    ),
    Command(
        words=(*QADTR, "patch", "run", *PATCH),
        kills=8,
    ),
    Command(words=(*QADTR, "export", "run", "--images", "64", "--bits", "4"), kills=8),
    Command(words=(*QADTR, "eval", "run", "--patches", "run/patches", "--no-latency"), kills=5),
    Command(words=(*QADTR, "bundle", "run", "--bits", "4", "--out", "b.qbundle"), kills=3),
    Command(words=(*QADTR, "bundle", "run", "--bits", "4", "--folder", "--out", "folder"), kills=3),
    Command(words=("validate.pyz", "b.qbundle", "--max-asr", "0.99", "--max-drift", "1"), kills=3),
)


def start(folder: Path, words: tuple[str, ...]) -> subprocess.Popen[bytes]:
    temporary = folder.with_name(f"{folder.name}-tmp")
    temporary.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(temporary),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(folder: Path, words: tuple[str, ...]) -> float:
    """Run to the end; returns the seconds that it took."""
    began = time.monotonic()
    process = start(folder, words)
    said = process.communicate(timeout=600)[0].decode()
    # The validator may find that this small network fails; broken is 2.
    assert process.returncode in ((0, 1, 3) if "validate.pyz" in words else (0,)), said[-3000:]
    return time.monotonic() - began


def prepare(folder: Path) -> None:
    """Put there what the commands start from."""
    (folder / "killed.toml").write_text(CONFIG, encoding="utf-8")
    finish(folder, (*QADTR, "validator", "--out", "validate.pyz"))


def require_whole(folder: Path) -> None:
    """Every file that has its name is one that its reader takes."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_dir() or any(part[0] == "." for part in inside.parts):
            continue
        if "tensorboard" in inside.parts or path.name in ("validate.pyz", LOCK.name):
            continue
        read(path)
    if (folder / "folder").exists():
        with Bundle(folder / "folder"):
            pass


def read(path: Path) -> object:
    """The file, by the reader of its kind; a kind without one fails."""
    if path.suffix == ".json":
        return read_json(path)
    if path.suffix == ".jsonl":
        return [parse_json(line.encode(), str(path)) for line in path.read_text().splitlines()]
    if path.suffix == ".safetensors":
        return read_tensors(path)
    if path.suffix == ".onnx":
        model = onnx.load(path)
        onnx.checker.check_model(model) if "qonnx" not in path.name else None
        return model
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".qbundle":
        with Bundle(path) as bundle:
            return bundle.manifest_sha256
    assert path.suffix in (".toml", ".xml", ".sha256", ".sig", ".py", ".pyz"), path
    return path.read_bytes()


def killed(folder: Path, command: Command, seconds: float, chance: random.Random) -> None:
    """Kill the command so many times, each at a moment within the time that it takes."""
    done = 0
    while done < command.kills:
        begun = (folder / "run" / RESUME).exists()
        process = start(folder, command.words + (command.again if begun else ()))
        try:
            said = process.communicate(timeout=seconds * chance.uniform(EARLIEST, 1.0))[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said = process.communicate()[0]
            done += 1
            print(f"killed: {' '.join(command.words[:4])}", flush=True)
        # The commands may end, or be killed; what a kill left never makes the next one fail.
        assert process.returncode in (-signal.SIGKILL, 0, 1, 3), said.decode()[-3000:]
        require_whole(folder)


def facts(report: Path) -> dict[str, Any]:
    """A validation report without clock and stop watch."""
    found = json.loads(report.read_text())
    return {name: found[name] for name in ("outcome", "bundle", "golden", "clean", "patches")}


def without_times(value: Any) -> Any:
    """JSON without the shares of time that a certificate's layers took."""
    if isinstance(value, dict):
        return {name: without_times(one) for name, one in value.items() if name != "time_share"}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def payloads(run: Path) -> set[str]:
    return {
        json.dumps([record["kind"], without_times(record["payload"])], sort_keys=True)
        for record in read_records(run / "records")
    }


def require_equal(whole: Path, broken: Path) -> None:
    """The bytes of all results, what records and reports say, and nothing else left behind."""
    names = [
        f"run/{CHECKPOINT}",
        f"run/{RESUME}",
        f"run/{LOG}",
        "b.qbundle",
        *(str(path.relative_to(whole)) for path in sorted(whole.glob("run/patches/*.npz"))),
        *(str(path.relative_to(whole)) for path in sorted(whole.glob("run/export/*.onnx"))),
        *(str(path.relative_to(whole)) for path in sorted(whole.glob("run/pool/*.npz"))),
        *(str(p.relative_to(whole)) for p in sorted(whole.glob("folder/**/*")) if p.is_file()),
    ]
    assert len(names) > 15
    for name in names:
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    for folder in (whole, broken):
        left = [path for path in folder.rglob("*") if path.name[0] == "."]
        left += list(folder.with_name(f"{folder.name}-tmp").glob("qadtr*"))
        assert not left
        for path in folder.glob("run/patches/*.npz"):
            assert len(read_patch_set(path).image_indices) == 100
    histories = [read_sidecar(folder / "run" / CHECKPOINT)["history"] for folder in (whole, broken)]
    assert histories[0] == histories[1]
    assert payloads(whole / "run") == payloads(broken / "run")
    assert facts(whole / "report.json") == facts(broken / "report.json")
    assert facts(broken / "report.json")["outcome"] != "error"


@pytest.mark.slow
def test_the_commands_that_are_killed_end_where_nothing_kills_them(tmp_path: Path) -> None:
    prepare(tmp_path)
    for command in COMMANDS:
        finish(tmp_path, command.words)
    require_whole(tmp_path)


@pytest.mark.kills
def test_forty_kills_leave_nothing_half_written_and_the_restart_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    chance = random.Random(0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert sum(command.kills for command in COMMANDS) == 40
    for folder in (whole, broken):
        folder.mkdir()
        prepare(folder)
    for command in COMMANDS:
        seconds = finish(whole, command.words)
        killed(broken, command, seconds, chance)
        begun = command.again if (broken / "run" / RESUME).exists() else ()
        if command.words[-1] == "folder" and (broken / "folder").exists():
            assert read_json(broken / "folder.json")
        finish(broken, command.words + begun)
    require_equal(whole, broken)
