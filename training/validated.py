"""Settings and records that are checked when they are made: one reader, one form of error.

:func:`validated` makes a frozen dataclass whose fields pydantic checks, deeply and strictly, where
it is constructed, replaced (:func:`dataclasses.replace`) or read from a table.  Every fault is a
line of one error: the dotted key, the expected value, the actual value.  A rule that involves
several fields is a method under ``pydantic.model_validator(mode="after")`` that raises
``ValueError``.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails, PydanticSerializationError, to_json, to_jsonable_python
from typing_extensions import TypedDict, get_type_hints, is_typeddict

from deploy.core.errors import InputError, QadtrError
from deploy.core.text import shortened

AtLeast0 = Annotated[int, Field(ge=0)]
AtLeast1 = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""0…1, both included."""
PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]


def _different(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"expected different numbers, got {list(values)}")
    return values


def _ordered(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError(f"expected (low, high) with low ≤ high, got {list(values)}")
    return values


BitWidths = Annotated[tuple[AtLeast1, ...], Field(min_length=1), AfterValidator(_different)]
"""One or more, 32 is float."""
ScaleRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]

_T = TypeVar("_T")
_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "none_required": "null",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "mapping_type": "a table",
    "dataclass_type": "a table",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "multiple_of": "a multiple of {multiple_of:g}",
    "literal_error": "one of {expected}",
    "string_pattern_mismatch": "text of the form {pattern}",
}
"""What was expected, by pydantic's kind of fault; others are said in pydantic's own words."""
_MOST_FAULTS = 10
_LONGEST_VALUE = 120
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
"""By the words of JSON Schema."""


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,)
)
def validated(error: type[QadtrError] = InputError) -> Callable[[type[_T]], type[_T]]:
    """A decorator: a frozen, keyword-only dataclass whose values are checked.

    A whole number is accepted for a float and, in a table, a list for a tuple; nothing else is
    converted.  Unknown fields, NaN and infinity are refused.

    Args:
        error: the exception that the constructor raises for refused values.
    """

    def decorate(cls: type[_T]) -> type[_T]:
        made: Any = checked_dataclass(cls, frozen=True, kw_only=True, config=_CONFIG)
        construct = made.__init__

        @functools.wraps(construct)
        def __init__(self: Any, **values: Any) -> None:
            try:
                construct(self, **values)
            except ValidationError as fault:
                raise error(_text(fault, made, cls.__name__)) from fault

        made.__init__ = __init__
        return made

    return decorate


class Recorded:
    """A base of validated settings that records and digests hold."""

    def as_record(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return cast(dict[str, Any], to_jsonable_python(dataclasses.asdict(cast(Any, self))))


def read_settings(
    kind: type[_T], table: Mapping[str, Any], where: str, error: type[QadtrError] = InputError
) -> _T:
    """A ``kind`` (:func:`validated`) from the ``table`` of a TOML file, a JSON file or options.

    Args:
        where: names the table in errors.
        error: the exception that is raised.

    Raises:
        InputError: a line for each unknown or missing key, wrong type or value.
    """
    try:
        # As JSON: pydantic's strict mode then accepts a table for a dataclass and a list for a
        # tuple.
        data = to_json(table, inf_nan_mode="constants")
        return cast(_T, _adapter(cast(Any, kind)).validate_json(data))
    except PydanticSerializationError as fault:
        raise error(f"{where}: holds a value that a table cannot hold: {fault}") from fault
    except ValidationError as fault:
        raise error(_text(fault, kind, where)) from fault


def checked(kind: Any, value: Any, where: str) -> Any:
    """``value`` itself, if it is valid JSON of the type ``kind``, down to the last key.

    ``kind``: a TypedDict (of ``typing_extensions``, as pydantic needs it before Python 3.12), a
    dataclass, or a type of these.

    Raises:
        InputError: as :func:`read_settings`.
    """
    read_settings(kind, value, where)
    return value


def as_json(value: Any) -> Any:
    """Settings as JSON values: dictionaries with text as keys, lists, numbers, text."""
    return to_jsonable_python(value)


def json_schema(kind: Any) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the values that :func:`checked` accepts for ``kind``."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {
        "$schema": draft,
        **_adapter(kind, documented=True).json_schema(schema_generator=_Untitled),
    }


class _Untitled(GenerateJsonSchema):
    """A schema generator without titles that repeat the key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@functools.cache
def _adapter(kind: Any, *, documented: bool = False) -> TypeAdapter[Any]:
    """The pydantic adapter of ``kind``; ``documented``: with descriptions from the docstrings of
    its fields, which are read from the source."""
    config = ConfigDict(**_CONFIG, use_attribute_docstrings=documented)
    if is_typeddict(kind):
        # A copy has the config, so that ``kind`` takes another's where it is part of that.
        fields = get_type_hints(kind, include_extras=True)
        return TypeAdapter(with_config(config)(cast(Any, TypedDict)(kind.__name__, fields)))
    if dataclasses.is_dataclass(kind):
        if not hasattr(kind, "__pydantic_config__"):
            with_config(config)(cast(Any, kind))
        return TypeAdapter(kind)
    return TypeAdapter(kind, config=config)


def _text(fault: ValidationError, kind: Any, where: str) -> str:
    """A line for each fault; where there are very many, for the first ones."""
    faults = fault.errors(include_url=False)
    lines = [f"{where}: {_line(one, kind)}" for one in faults[:_MOST_FAULTS]]
    if len(faults) > _MOST_FAULTS:
        lines.append(f"{where}: and {len(faults) - _MOST_FAULTS:,} more faults")
    return "\n".join(lines)


def _came(value: object) -> str:
    """The actual value, as it is shown in the error."""
    return shortened(repr(value), _LONGEST_VALUE)


def _line(fault: ErrorDetails, kind: Any) -> str:
    what, about = fault["type"], fault.get("ctx", {})
    place = tuple(step for step in fault["loc"] if step != "[key]")
    key, there = _dotted(place), _at(json_schema(kind), place)
    if what in ("missing", "missing_keyword_only_argument"):
        return f"the key {key!r} is missing"
    if what in ("extra_forbidden", "unexpected_keyword_argument"):
        outer = _at(json_schema(kind), place[:-1])
        valid = sorted({key for table in outer for key in table.get("properties", {})})
        near = difflib.get_close_matches(str(place[-1]), valid, n=1)
        guess = f" did you mean {near[0]!r}?" if near else ""
        return f"unknown key {key!r};{guess} valid keys are {', '.join(valid)}"
    if what == "value_error":
        return f"{key}: {about['error']}" if key else str(about["error"])
    if what == "literal_error":
        about = {"expected": about["expected"].replace(" or ", ", ").replace("'", "")}
    bounds = [f"{words} {t[b]:g}" for t in there for b, words in _BOUNDS.items() if b in t]
    if what.startswith(("greater_than", "less_than")) and bounds:
        return f"{key} must be {' and '.join(bounds)}; got {_came(fault['input'])}"
    if what in _EXPECTED:
        return (
            f"{key} must be {_EXPECTED[what].format(**about)}; got {_came(fault['input'])}".lstrip()
        )
    return f"{key}: {fault['msg']}; got {_came(fault['input'])}".removeprefix(": ")


def _dotted(place: Iterable[int | str]) -> str:
    steps = (f"[{p}]" if isinstance(p, int) else f".{shortened(p, 60)}" for p in place)
    return "".join(steps).removeprefix(".")


def _at(schema: dict[str, Any], place: Iterable[int | str]) -> list[dict[str, Any]]:
    """The parts of ``schema`` that apply to the value at ``place``."""
    found = [schema]
    for step in (*place, None):
        tables = []
        while found:
            table = found.pop()
            if "$ref" in table:
                found.append(schema["$defs"][table["$ref"].rsplit("/", 1)[-1]])
            found += table.get("anyOf", [])
            tables.append(table)
        if step is None:
            return tables
        for table in tables:
            inside = (table.get("properties", {}).get(step), table.get("items"))
            found += [t for t in (*inside, table.get("additionalProperties")) if t]
    raise AssertionError("the last step is None")
