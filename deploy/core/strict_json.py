"""Strict JSON: no NaN and no key given twice, and equal bytes for equal content."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .files import read_bytes, write_atomic
from .limits import MOST_JSON_BYTES, MOST_NESTED, require_file_size
from .text import shortened

_NAMED = 5
_MOST_DIGITS = 20
_INTEGERS = range(-(1 << 63), 1 << 64)
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def _check_keys(obj: object) -> None:
    # json.dumps turns a key 8 into "8", in another order: reading back would give other bytes.
    if isinstance(obj, Mapping):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is not text; use {str(key)!r}")
            _check_keys(value)
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            _check_keys(value)


def _plain_value(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not a JSON value (an array needs .tolist())")


def json_bytes(obj: object) -> bytes:
    """Return ``obj`` as UTF-8 JSON: sorted keys, indent 2, final newline; equal for equal input.

    numpy scalars become plain numbers.

    Raises:
        InputError: NaN, an infinity, a key that is not text or something JSON cannot hold.
    """
    try:
        _check_keys(obj)
        text = json.dumps(
            obj,
            sort_keys=True,
            indent=2,
            ensure_ascii=False,
            allow_nan=False,
            default=_plain_value,
        )
        return (text + "\n").encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be written as JSON: {error}") from error


def write_json(path: Path, obj: object) -> None:
    """Write ``obj`` atomically in the form of :func:`json_bytes`.

    Raises:
        InputError: not a JSON value (NaN and infinities are not), or the place is not writable.
    """
    try:
        data = json_bytes(obj)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    write_atomic(path, data)


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} does not fit into a float64")
    return value


def _short_integer(text: str) -> int:
    # Reading n digits takes time in proportion to n², and a number that fits no array overflows
    # later.
    if len(text.lstrip("-")) > _MOST_DIGITS or int(text) not in _INTEGERS:
        raise ValueError(f"the whole number {shortened(text, 30)} does not fit into 64 bits")
    return int(text)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def require_plain_tree(value: object) -> None:
    """Refuse values that are nested too deep for recursive code, and text that no file can hold.

    Args:
        value: dictionaries, lists and plain values, as JSON or TOML readers return them.

    Raises:
        ValueError: more than :data:`.limits.MOST_NESTED` deep, or half a surrogate pair.
    """
    level: list[Any] = [value] if isinstance(value, (dict, list, str)) else []
    for _ in range(MOST_NESTED + 1):
        if not level:
            return
        inner: list[Any] = []
        for one in level:
            if isinstance(one, str):
                if not one.isascii() and _HALF_A_PAIR.search(one):
                    raise ValueError("text with half a surrogate pair, such as \\ud800")
                continue
            parts = (*one, *one.values()) if isinstance(one, dict) else one
            inner += [part for part in parts if isinstance(part, (dict, list, str))]
        level = inner
    raise ValueError(f"it is nested more than {MOST_NESTED} deep")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = sorted(key for key, count in counts.items() if count > 1)
        more = "" if len(twice) <= _NAMED else f" and {len(twice) - _NAMED} more"
        raise ValueError(f"keys given twice: {', '.join(twice[:_NAMED])}{more}")
    return result


def parse_json(data: bytes, where: str) -> object:
    """Return what JSON bytes hold; ``where`` names them in errors.

    Raises:
        InputError: too large, truncated, not UTF-8, a key given twice, NaN, Infinity, a number
            that does not fit 64 bits, nested too deeply, or text with half a surrogate pair.
    """
    if len(data) > MOST_JSON_BYTES:
        raise InputError(f"{where} has {len(data):,} bytes, at most {MOST_JSON_BYTES:,} are read")
    try:
        result: object = json.loads(
            data.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_short_integer,
            object_pairs_hook=_unique_keys,
        )
        require_plain_tree(result)
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{where} is not valid JSON ({error}); it is damaged or truncated, create it again"
        ) from error
    return result


def read_json(path: Path) -> object:
    """Return what the JSON file holds.

    Raises:
        InputError: missing, or as :func:`parse_json`.
    """
    require_file_size(Path(path), MOST_JSON_BYTES)
    return parse_json(read_bytes(path), str(path))
