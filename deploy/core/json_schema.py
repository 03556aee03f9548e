"""Check JSON values against a JSON Schema, for the few keywords that our own schemas use.

The device itself checks with the published schema files, so the two cannot differ. A schema with a
keyword that is not supported here is an error; it is never ignored.

Reference: https://json-schema.org/draft/2020-12
"""

from __future__ import annotations

import json
import math
import pkgutil
import re
from collections.abc import Mapping, Sequence
from typing import Any

_ANNOTATIONS = {"$schema", "$id", "$defs", "title", "description"}
_KNOWN = _ANNOTATIONS | {
    "$ref",
    "additionalProperties",
    "const",
    "enum",
    "items",
    "maxItems",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "maxLength",
    "pattern",
    "properties",
    "propertyNames",
    "required",
    "type",
    "uniqueItems",
}


class SchemaMismatch(ValueError):
    """A value does not match the schema; the text names the place, the expected and the actual."""


def load_schema(name: str, package: str) -> dict[str, Any]:
    """Return the schema ``schemas/NAME.json`` of a package, in a zipapp too.

    Args:
        name: such as "bundle-manifest-1".
        package: its dotted name; a module gives its own ``__package__``.

    Raises:
        FileNotFoundError: the package has no such schema.
    """
    data = pkgutil.get_data(package, f"schemas/{name}.json")
    if data is None:
        raise FileNotFoundError(f"the schema {name} is not installed with {package}")
    schema: dict[str, Any] = json.loads(data)
    return schema


def check(value: object, schema: Mapping[str, Any]) -> None:
    """Check a value as ``json`` reads it.

    It is stricter than the standard in one thing: 1.0 is not an integer.

    Raises:
        SchemaMismatch: the value does not match; the error names its place.
        KeyError: the schema uses a keyword that is not supported here.
    """
    _check(value, schema, schema, "")


def _check(value: object, schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> None:
    unknown = schema.keys() - _KNOWN
    if unknown:
        raise KeyError(f"the schema keywords {sorted(unknown)} are not supported")
    if "$ref" in schema:
        _check(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is(value, kind) for kind in kinds):
            raise _mismatch(at, f"expected {' or '.join(kinds)}", value)
    if "const" in schema and not _same(value, schema["const"]):
        raise _mismatch(at, f"expected {schema['const']!r}", value)
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        allowed = ", ".join(repr(one) for one in schema["enum"])
        raise _mismatch(at, f"expected one of {allowed}", value)
    if isinstance(value, str):
        _check_text(value, schema, at)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_number(value, schema, at)
    elif isinstance(value, list):
        _check_list(value, schema, root, at)
    elif isinstance(value, dict):
        _check_object(value, schema, root, at)


def _is(value: object, kind: str) -> bool:
    if kind == "object":
        return isinstance(value, dict)
    if kind == "array":
        return isinstance(value, list)
    if kind == "string":
        return isinstance(value, str)
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "null":
        return value is None
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        return plain and (isinstance(value, int) or math.isfinite(float(value)))  # type: ignore[arg-type]
    raise KeyError(f"the schema type {kind!r} is not supported")


def _same(value: object, wanted: object) -> bool:
    return type(value) is type(wanted) and value == wanted  # True is not 1 here


def _check_text(value: str, schema: Mapping[str, Any], at: str) -> None:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
        raise _mismatch(at, f"expected text of another length than {len(value)}", value)
    pattern = schema.get("pattern")
    # Python's $ also matches before a final newline; the standard's does not.
    if pattern is not None and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
        raise _mismatch(at, f"expected text of the form {pattern}", value)


def _check_number(value: float, schema: Mapping[str, Any], at: str) -> None:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    if not low <= value <= high:
        raise _mismatch(at, f"expected a number from {low} to {high}", value)


def _check_list(
    value: Sequence[object], schema: Mapping[str, Any], root: Mapping[str, Any], at: str
) -> None:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
        raise _mismatch(at, f"expected a list of another length than {len(value)}", value)
    if schema.get("uniqueItems") and any(one in value[:i] for i, one in enumerate(value)):
        raise _mismatch(at, "expected items that all differ", value)
    if "items" in schema:
        for i, item in enumerate(value):
            _check(item, schema["items"], root, f"{at}[{i}]")


def _check_object(
    value: Mapping[str, object], schema: Mapping[str, Any], root: Mapping[str, Any], at: str
) -> None:
    properties = schema.get("properties", {})
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        raise SchemaMismatch(f"{at or 'the top'} lacks {', '.join(missing)}")
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", math.inf):
        raise _mismatch(at, f"expected another number of fields than {len(value)}", "…")
    more = schema.get("additionalProperties", True)
    for name, item in value.items():
        place = f"{at}.{name[:80]}" if at else name[:80]
        if "propertyNames" in schema:
            _check(name, schema["propertyNames"], root, f"the name {place}")
        if name in properties:
            _check(item, properties[name], root, place)
        elif more is False:
            known = ", ".join(properties) or "none"
            raise SchemaMismatch(f"{place!r} is an unknown field; known fields there: {known}")
        elif isinstance(more, Mapping):
            _check(item, more, root, place)


def _mismatch(at: str, expected: str, value: object) -> SchemaMismatch:
    shown = repr(value)
    return SchemaMismatch(
        f"{at or 'the top'}: {expected}, got {shown if len(shown) <= 60 else shown[:60] + '…'}"
    )
