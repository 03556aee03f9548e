"""Did you mean, completion, and colour on a terminal alone."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.core.colour import coloured, shows_colour
from deploy.device.console import Console
from qadtr.__main__ import build_parser, main
from qadtr.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian"], "; did you mean train?; see qadtr --help"),
        (["eval", "RUN", "--patchs", "p"], "did you mean --patches?; see qadtr eval --help"),
        (["report", "RUN", "--tabel=1"], "did you mean --table?; see qadtr report --help"),
        (["eval", "RUN", "--split", "hold-out"], "did you mean holdout?; see qadtr eval --help"),
        (["frobnicate"], "'completion'); see qadtr --help"),
        (["doctor", "--zzz"], "unrecognized arguments: --zzz; see qadtr doctor --help"),
    ],
)
def test_did_you_mean(words: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(meant)


def test_bash_completes_commands_options_and_configs(tmp_path: Path) -> None:
    script = tmp_path / "qadtr.bash"
    done = subprocess.run(
        [sys.executable, "-m", "qadtr", "completion", "bash"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    script.write_text(done.stdout)

    def completed(*words: str) -> set[str]:
        ask = (
            f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
            "_shtab_qadtr; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        asked = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
        return set(asked.stdout.split())

    assert completed("qadtr", "tra") == {"train"}
    assert set(COMMANDS) <= completed("qadtr", "''")
    assert completed("qadtr", "report", "--gro") == {"--group-by"}
    assert completed("qadtr", "eval", "--split", "h") == {"holdout"}
    assert "cifar10-resnet8-source" in completed("qadtr", "train", "cifar10-resnet8-s")


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_the_other_shells_get_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "certify" in capsys.readouterr().out
    # The parser of other commands is as it was.
    assert build_parser().parse_args(["train", "mine.toml"]).config == "mine.toml"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert coloured("x", "red", Terminal()) == "\033[1;31mx\033[0m"
    assert coloured("x", "red", io.StringIO()) == "x"
    assert coloured("x", "red", None) == coloured("x", None, Terminal()) == "x"
    monkeypatch.setenv("TERM", "dumb")
    assert not shows_colour(Terminal())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert shows_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not shows_colour(Terminal())
    monkeypatch.setenv("NO_COLOR", "")  # empty is not set
    assert shows_colour(io.StringIO())


def test_the_validator_colours_its_outcomes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    out = Terminal()
    console = Console(out, out)
    console.say("gate       max_asr of pass: fail: 9 of 10", outcome="fail")
    console.say("PASS (exit code 0): all passed", outcome="pass")
    console.say("clean      pass")
    console.complain("validate: broken: bundle")
    assert out.getvalue().splitlines() == [
        "gate       max_asr of pass: \033[1;31mfail\033[0m: 9 of 10",
        "\033[1;32mPASS\033[0m (exit code 0): all passed",
        "clean      pass",
        "\033[1;31mvalidate:\033[0m broken: bundle",
    ]


def test_what_is_piped_has_no_colour() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    words = [sys.executable, "-m", "qadtr"]
    for more, forced in ((["doctor"], {}), (["trian"], {}), (["doctor"], {"FORCE_COLOR": "1"})):
        done = subprocess.run(
            [*words, *more], cwd=ROOT, env=environment | forced, capture_output=True, check=False
        )
        assert (b"\033[" in done.stdout + done.stderr) == bool(forced)
