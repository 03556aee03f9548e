"""Frozen settings from the keys and values of a TOML table or a command line, strictly.

One reader for every settings dataclass, of a training, a defense, an attack or a check: a setting
that somebody mistyped is an error, never a default in silence.  What a value may be beyond its type
the dataclass itself checks.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from deploy.core.errors import InputError

Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], table: Mapping[str, Any], where: str) -> Settings:
    """An instance of the frozen dataclass ``kind`` from ``table``; ``where`` names it in errors.

    Fields may be bool, int, float (a whole number is taken too), str, ``Literal`` of strings,
    tuples (a list is taken too), mappings, other such dataclasses, and any of these or None.

    Raises:
        InputError: unknown or missing key (the valid ones are named), wrong type, wrong value.
    """
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, kind))}
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise InputError(
            f"{where}: unknown key {unknown[0]!r}; valid here are {', '.join(sorted(fields))}"
        )
    missing = [
        name
        for name, f in fields.items()
        if name not in table
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where}: the key {missing[0]!r} is missing")
    values = {
        name: _convert(hints[name], value, f"{where}: {name}") for name, value in table.items()
    }
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a table, got {value!r}")
        return read_settings(hint, value, where)
    if origin is Literal:
        if value not in (choices := typing.get_args(hint)):
            raise InputError(f"{where} must be one of {', '.join(choices)}; got {value!r}")
        return value
    if origin is tuple:
        return _tuple(typing.get_args(hint), value, where)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(typing.get_args(hint)[0], value, where)
    if origin is not None:
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a table, got {value!r}")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise InputError(f"{where} must be of type {hint.__name__}, got {value!r}")
    if hint is float and math.isnan(value):
        raise InputError(f"{where} must be a number, got {value!r}")
    return value


def _tuple(items: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """``items``: the type of each item, or (type, ...) for any number of one type."""
    if not isinstance(value, list | tuple):
        raise InputError(f"{where} must be a list, got {value!r}")
    if items[-1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(value) != len(items):
        raise InputError(f"{where} must be a list of {len(items)}, got {value!r}")
    return tuple(
        _convert(item, one, f"{where}[{number}]")
        for number, (item, one) in enumerate(zip(items, value, strict=True))
    )
