"""What a user sees who lacks an extra, or has a folder of a name that this project uses too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.core.installing import EXTRA_OF_MODULE, install_command
from qadtr.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
RUN = "results/cifar10-resnet8-cpu/plain"

WORDS = {
    "demo": [],
    "train": ["cifar10-resnet8"],
    "export": [RUN],
    "lower": ["model.onnx", "--out", "OUT/lowered.onnx"],
    "adopt": ["model.onnx", "--out", "OUT/adopted"],
    "patch": [RUN, "--attack", "gap"],
    "pixel": [RUN, "--attack", "fgsm"],
    "eval": [RUN, "--patches", "p"],
    "analyze": [RUN, "--patches", "p"],
    "checks": [RUN],
    "certify": [RUN, "--patch", "5"],
    "matrix": ["configs/matrix/transfer-cifar10-resnet8.toml"],
    "defenses": ["--out", "OUT"],
    "zoo": [],
    "report": [RUN, "--out", "OUT/r.html"],
    "bundle": [RUN, "--bits", "4", "--out", "OUT/b"],
    "drift": ["model.qbundle", RUN],
    "parity": [RUN],
    "inspect": ["model.onnx"],
    "data": ["cifar10", "OUT"],
}
"""Of each command that needs more than numpy; the others are not here."""

NEEDS_NO_EXTRA = {"configs", "validator", "compare", "doctor", "completion"}

BLOCKED = """
import sys
for name in {blocked!r}: sys.modules[name] = None
from qadtr.__main__ import main
sys.exit(main({words!r}))
"""


def started(words: list[str], blocked: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    program = BLOCKED.format(blocked=blocked, words=words)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in NEEDS_NO_EXTRA])
def test_a_missing_extra_is_one_line_with_the_command_that_installs_it(
    command: str, tmp_path: Path
) -> None:
    words = [word.replace("OUT", str(tmp_path)) for word in WORDS[command]]
    done = started([command, *words], tuple(EXTRA_OF_MODULE))
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith("qadtr: this needs the package ")
    assert "pip install" in last
    assert "Traceback" not in done.stderr


def test_the_charts_need_their_own_extra_and_say_which(tmp_path: Path) -> None:
    words = ["report", RUN, "--out", str(tmp_path / "r.html"), "--figures", str(tmp_path)]
    done = started(words, ("matplotlib",))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "qadtr: this needs the package matplotlib, which is not installed; install it: "
        f"{install_command('figures')}"
    )


@pytest.mark.parametrize("name", ["training", "eval", "export", "deploy"])
def test_another_package_of_that_name_is_found_and_told_in_one_line(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    words = [sys.executable, "-m", "qadtr", "configs"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # a folder without __init__.py is in nobody's way
    (tmp_path / name / "__init__.py").touch()
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == (
        f"qadtr: qadtr needs its own package {name}, but Python finds {tmp_path / name} first; "
        "rename that one, or start qadtr from another folder"
    )
    words = [sys.executable, "-c", "import qadtr"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith(
        f"ImportError: qadtr needs its own package {name}"
    )
