"""What every subcommand shares: exit codes, one line for an error, a quick `--help`."""

from __future__ import annotations

import argparse

import pytest

from deploy.core.errors import InputError, NothingToEvaluate, UsageError
from qadtr import __main__ as command
from qadtr.commands import COMMANDS
from qadtr.parser import Parser


def replaced_by(error: BaseException) -> argparse.ArgumentParser:
    def run(arguments: argparse.Namespace) -> int:
        raise error

    parser = Parser(prog="qadtr")
    parser.add_argument("--debug", action="store_true")
    parser.set_defaults(execute=run)
    return parser


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("first\nsecond"), 2, "qadtr: first; second"),
        (NothingToEvaluate("no image"), 3, "qadtr: no image"),
        (UsageError("no such"), 4, "qadtr: no such"),
        (ValueError("odd"), 2, "qadtr: unexpected ValueError: odd (--debug shows where)"),
        (KeyboardInterrupt(), 130, "qadtr: interrupted"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "build_parser", lambda: replaced_by(error))
    assert command.main([]) == code
    assert capsys.readouterr().err.splitlines() == [line]


def test_debug_adds_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "build_parser", lambda: replaced_by(ValueError("odd")))
    assert command.main(["--debug"]) == 2
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.endswith("qadtr: unexpected ValueError: odd\n")


@pytest.mark.parametrize("words", [["frob"], ["--frob"], ["data", "mnist", "x"], ["data"]])
def test_wrong_usage_exits_4(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(words)
    assert caught.value.code == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("qadtr")
    assert line.endswith(" --help")


def test_no_command_prints_the_help_and_exits_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 4
    assert "usage: qadtr" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--debug", "doctor"], ["doctor", "--debug"]])
def test_debug_is_taken_on_either_side_of_the_command(words: list[str]) -> None:
    assert command.build_parser().parse_args(words).debug is True


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: qadtr {name}" in capsys.readouterr().out
