"""Strict JSON: what comes back, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core import strict_json
from deploy.core.errors import InputError
from deploy.core.strict_json import read_json, write_json


def test_json_comes_back_and_is_deterministic(tmp_path: Path) -> None:
    path, again = tmp_path / "a.json", tmp_path / "b.json"
    value = {"b": [1, 2.5, None, True], "a": {"ü": "2⁻⁶", "n": np.int64(3), "x": np.float32(0.5)}}
    write_json(path, value)
    write_json(again, dict(reversed(list(value.items()))))
    assert path.read_bytes() == again.read_bytes()
    assert path.read_text().endswith("}\n")
    plain = {"b": [1, 2.5, None, True], "a": {"ü": "2⁻⁶", "n": 3, "x": 0.5}}
    assert read_json(path) == plain
    assert json.loads(path.read_text()) == plain


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("inf")],
        {"a": np.float32("nan")},
        {8: "eight"},
        {"a": [{None: 1}]},
        np.zeros(2),
        {1, 2},
        b"bytes",
        "\ud800",
        Path("x"),
    ],
)
def test_what_json_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, value: Any
) -> None:
    with pytest.raises(InputError, match=r"file\.json"):
        write_json(tmp_path / "file.json", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"a": 1',
        b'{"a": NaN}',
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e999]",
        b'{"a": 1, "a": 2}',
        b"\xff\xfe",
        b"[" * 200_000,
        b"9" * 10_000,
        b"[18446744073709551616]",
        b'{"a": [-9223372036854775809]}',
        b'["\\ud800"]',
        b'{"\\udfff": 1}',
        b"[" * 102 + b"]" * 102,
        b'{"a":' * 102 + b"1" + b"}" * 102,
        b"{} {}",
    ],
)
def test_bad_json_is_an_input_error_that_names_the_file(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=r"bad\.json"):
        read_json(path)


def test_the_largest_the_deepest_and_the_strangest_that_json_is_read_of(tmp_path: Path) -> None:
    path = tmp_path / "good.json"
    path.write_bytes(b'[18446744073709551615, -9223372036854775808, 1e308, "\\ud83d\\ude00"]')
    assert read_json(path) == [2**64 - 1, -(2**63), 1e308, "\U0001f600"]
    path.write_bytes(b"[" * 100 + b"]" * 100)
    found, deep = read_json(path), 1
    while isinstance(found, list) and found:
        found, deep = found[0], deep + 1
    assert deep == 100


def test_json_too_large_or_too_deep_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.json"
    path.write_bytes(b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(InputError, match=r"large\.json is not valid JSON"):
        read_json(path)
    monkeypatch.setattr(strict_json, "MOST_JSON_BYTES", 1000)
    with pytest.raises(InputError, match=r"large\.json has 200,000 bytes, but at most 1,000"):
        read_json(path)
