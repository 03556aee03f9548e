"""TOML that is hostile or damaged is one error that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.core.errors import InputError
from deploy.core.limits import MOST_NESTED
from qadtr.commands.shared import settings_from
from training.config import load_config
from training.toml_file import parse_toml, read_toml


def test_a_table_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('a = 9223372036854775807\nb = ["é", 1.5]\n[c]\nd = -9223372036854775808\n')
    assert read_toml(path) == {"a": 2**63 - 1, "b": ["é", 1.5], "c": {"d": -(2**63)}}


def nested(deep: int) -> str:
    return f"a = {'[' * deep}{']' * deep}"


def test_the_deepest_nesting_that_is_read() -> None:
    assert parse_toml(nested(MOST_NESTED - 2), "x")
    with pytest.raises(InputError, match=r"^x cannot be read as TOML: .*nested more than 100 deep"):
        parse_toml(nested(MOST_NESTED + 1), "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (nested(50_000), "recursion"),
        (f"a = {'{b=' * 50_000}1", "recursion"),
        (f"a = {'9' * 5000}", "digits"),
        ("a = 9223372036854775808", "does not fit into 64 bits"),
        ("a = [{b = [-9223372036854775809]}]", "does not fit into 64 bits"),
        ("a = [", "Invalid value"),
        ("a = 1\na = 2", "Cannot overwrite"),
    ],
)
def test_what_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    for read in (read_toml, load_config):
        with pytest.raises(InputError, match=rf"a\.toml cannot be read as TOML: .*{said}"):
            read(path)


def test_what_is_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"')
    with pytest.raises(InputError, match=r"latin\.toml cannot be read as TOML: 'utf-8'"):
        read_toml(tmp_path / "latin.toml")
    with pytest.raises(InputError, match=r"none\.toml does not exist"):
        read_toml(tmp_path / "none.toml")


def test_an_option_that_is_no_toml_is_text() -> None:
    words = ["a=1", "b=[1, 2]", "c=centre", f"d={'9' * 5000}", f"e={'[' * 50_000}"]
    found = settings_from(words)
    assert (found["a"], found["b"], found["c"]) == (1, [1, 2], "centre")
    assert (found["d"], found["e"]) == ("9" * 5000, "[" * 50_000)
