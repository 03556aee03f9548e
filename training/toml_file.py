"""TOML from files and from the command line, with its limits checked before it is used."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from deploy.core.errors import InputError
from deploy.core.files import read_bytes
from deploy.core.limits import MOST_JSON_BYTES, require_file_size
from deploy.core.strict_json import require_plain_tree

_INTEGERS = range(-(1 << 63), 1 << 63)
"""Those of TOML; Python would take any."""


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The table that TOML text holds; ``where`` names it in errors.

    Raises:
        InputError: it is not TOML, has a whole number of more than 64 bits, or nests too deeply.
    """
    try:
        table = tomllib.loads(text)
        require_plain_tree(table)
        _require_integers(table)
    # ValueError: tomllib's own error, and Python's error for a number of 5,000 digits.
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{where} cannot be read as TOML: {error}") from error
    return table


def read_toml(path: Path, where: str = "") -> dict[str, Any]:
    """The table that a TOML file holds; ``where`` names it in errors, by default its path.

    Raises:
        InputError: the file is missing, too large or not UTF-8; or as :func:`parse_toml`.
    """
    require_file_size(path, MOST_JSON_BYTES)
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where or path} cannot be read as TOML: {error}") from error
    return parse_toml(text, where or str(path))


def _require_integers(value: object) -> None:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _require_integers(one)
    elif isinstance(value, int) and value not in _INTEGERS:
        raise ValueError("a whole number does not fit into 64 bits")
