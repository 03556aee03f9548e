"""What an error shows of names that come from files."""

from __future__ import annotations

import pytest

from deploy.core.errors import LONGEST_LINE, InputError
from deploy.core.html import tag
from deploy.core.text import shortened

HOSTILE = "a\x1b[2J\x9b31m\u202eb\ud800\x00"
SHOWN = "a?[2J?31m?b??"


def test_names_have_no_control_characters_and_no_turned_order() -> None:
    assert str(InputError(f"{HOSTILE}.png: é is kept")) == f"{SHOWN}.png: é is kept"


def test_a_line_without_end_keeps_its_start_and_its_end() -> None:
    text = str(InputError("start " + "x" * 100_000 + " make it again"))
    assert text.startswith("start xxx")
    assert text.endswith("xxx make it again")
    assert len(text) < LONGEST_LINE + 60
    assert str(InputError("short")) == "short"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a.toml: one\na.toml: two", "a.toml: one; a.toml: two"),
        ("cannot take:\n  one\n  two\n", "cannot take: one; two"),
        ("one\x85two\u2028three", "one?two; three"),
        ("", ""),
    ],
)
def test_commands_print_several_lines_as_one(text: str, line: str) -> None:
    assert InputError(text).line == line


def test_what_is_shortened_is_no_longer_than_asked_by_much() -> None:
    assert shortened("x" * 30, 30) == "x" * 30
    assert shortened("a" * 20 + "b" * 1000, 30) == f"{'a' * 20} [… 990 characters …] {'b' * 10}"


def test_markup_has_no_characters_that_a_browser_obeys() -> None:
    assert tag("p", HOSTILE, title=HOSTILE) == f'<p title="{SHOWN}">{SHOWN}</p>'
    assert tag("p", "a\nb\tc é") == "<p>a\nb\tc é</p>"
