"""Every option that takes a number refuses, in one line, the numbers that it cannot mean."""

from __future__ import annotations

import argparse

import pytest

from qadtr.__main__ import build_parser
from qadtr.arguments import count, index, positive, share

COMMANDS = build_parser().commands
OPTIONS = [
    (name, action)
    for name, parser in COMMANDS.items()
    for action in parser._actions
    if action.type in (positive, count, index, share)
]
OF_NO_USE = {
    count: ("0", "-1", "1.5", "x", "2147483648", "9" * 5000),
    index: ("-1", "1.5", "x", "2147483648"),
    share: ("-0.1", "1.01", "nan", "inf", "x"),
    positive: ("0", "-0.1", "nan", "inf", "1e999", "x"),
}


@pytest.mark.parametrize(
    ("name", "option"), OPTIONS, ids=[f"{n}{o.option_strings[0]}" for n, o in OPTIONS]
)
def test_a_number_of_no_use_is_a_usage_error(
    name: str, option: argparse.Action, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, flag = option.type, option.option_strings[0]
    assert kind in OF_NO_USE
    for text in OF_NO_USE[kind]:
        both = isinstance(option.nargs, int)
        with pytest.raises(SystemExit, match="4"):
            COMMANDS[name].parse_args([flag, text, text] if both else [f"{flag}={text}"])
        said = capsys.readouterr().err
        assert f"argument {flag}: expected" in said
        assert said.count("\n") == 1
        assert len(said) < 400


def test_no_option_takes_any_number_at_all() -> None:
    """Means and standard deviations are checked with the image's form, and compare's level where
    the validator checks it, which shares that command."""
    free = [
        (name, option.option_strings[0])
        for name, parser in COMMANDS.items()
        for option in parser._actions
        if option.type in (int, float)
    ]
    of_an_image = [(name, flag) for name in ("lower", "adopt") for flag in ("--mean", "--std")]
    assert sorted(free) == sorted([*of_an_image, ("compare", "--level")])
    assert len(OPTIONS) > 60


def test_what_is_of_use_is_taken() -> None:
    assert (count("1"), count("2147483647"), index("0")) == (1, 2**31 - 1, 0)
    assert (share("0"), share("1"), share("0.25"), positive("1e3")) == (0.0, 1.0, 0.25, 1000.0)
