"""Settings and records are checked deeply, with one form of error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, NotRequired

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from pydantic import Field, model_validator
from typing_extensions import TypedDict

from deploy.core.errors import InputError, UsageError
from training.validated import AtLeast1, Share, checked, json_schema, read_settings, validated


@validated()
class Inner:
    """A table in a table."""

    count: AtLeast1 = 3
    sizes: tuple[int, ...] = (1,)


@validated()
class Outer:
    """One field of each kind."""

    rate: float
    number: int | None = None
    kind: Literal["one", "two"] = "one"
    on: bool = False
    share: Share = 0.5
    pair: tuple[float, float] = (1.0, 2.0)
    inner: Inner = field(default_factory=Inner)
    more: Mapping[str, Any] = field(default_factory=dict)
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5

    @model_validator(mode="after")
    def _share_is_below_the_rate(self) -> Outer:
        if self.share > self.rate:
            raise ValueError(f"share must not be above rate; got {self.share} and {self.rate}")
        return self


@validated(UsageError)
class Asked:
    """What a command is asked for."""

    images: AtLeast1


class Counted(TypedDict):
    successes: int
    n: int


class Row(TypedDict):
    asr: Counted
    rows: list[Counted]
    note: NotRequired[str | None]


def lines(make: Callable[[], object]) -> list[str]:
    with pytest.raises(InputError) as refused:
        make()
    return str(refused.value).splitlines()


def test_a_table_becomes_settings_and_only_exact_conversions_are_made() -> None:
    table = {"rate": 1, "pair": [3, 4.5], "inner": {"sizes": [5]}, "more": {"a": [{"b": None}]}}
    read = read_settings(Outer, table, "x.toml")
    inner = Inner(sizes=(5,))
    assert read == Outer(rate=1.0, pair=(3.0, 4.5), inner=inner, more={"a": [{"b": None}]})
    assert isinstance(read.rate, float)
    assert isinstance(read.pair, tuple)
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.rate = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate": "1"}, "rate must be a number; got '1'"),
        ({"rate": True}, "rate must be a number; got True"),
        ({"rate": math.nan}, "rate must be a finite number; got nan"),
        ({"rate": math.inf}, "rate must be a finite number; got inf"),
        ({"number": True}, "number must be a whole number; got True"),
        ({"number": 2.0}, "number must be a whole number; got 2.0"),
        ({"on": 1}, "on must be true or false; got 1"),
        ({"kind": "three"}, "kind must be one of one, two; got 'three'"),
        ({"share": 1.5}, "share must be at least 0 and at most 1; got 1.5"),
        ({"ratio": 1.0}, "ratio must be above 0 and below 1; got 1.0"),
        ({"pair": 3}, "pair must be a list; got 3"),
        ({"pair": [1]}, "the key 'pair[1]' is missing"),
        ({"inner": 3}, "inner must be a table; got 3"),
        ({"inner": {"count": 0}}, "inner.count must be at least 1; got 0"),
        ({"inner": {"sizes": [1, "2"]}}, "inner.sizes[1] must be a whole number; got '2'"),
        (
            {"inner": {"counts": 3}},
            "unknown key 'inner.counts'; did you mean 'count'? valid keys are count, sizes",
        ),
        ({"share": 1.0, "rate": 0.5}, "share must not be above rate; got 1.0 and 0.5"),
    ],
)
def test_an_error_names_the_key_what_was_expected_and_what_came(
    change: dict[str, object], said: str
) -> None:
    assert lines(lambda: read_settings(Outer, {"rate": 1.0} | change, "x")) == [f"x: {said}"]


def test_every_fault_has_a_line() -> None:
    found = lines(lambda: read_settings(Outer, {"number": "2", "inner": {"count": -1}}, "x"))
    assert sorted(found) == [
        "x: inner.count must be at least 1; got -1",
        "x: number must be a whole number; got '2'",
        "x: the key 'rate' is missing",
    ]


def test_constructing_and_replacing_check_as_reading_does() -> None:
    assert lines(lambda: Inner(count=0)) == ["Inner: count must be at least 1; got 0"]
    good = Outer(rate=1.0)
    assert lines(lambda: dataclasses.replace(good, share=2.0)) == [
        "Outer: share must be at least 0 and at most 1; got 2.0"
    ]
    assert lines(lambda: dataclasses.replace(good, rate=0.1)) == [
        "Outer: share must not be above rate; got 0.5 and 0.1"
    ]
    with pytest.raises(UsageError, match="images must be at least 1; got 0"):
        Asked(images=0)
    with pytest.raises(UsageError, match="images must be a whole number"):
        read_settings(Asked, {"images": "3"}, "options", UsageError)


def test_a_record_with_impossible_content_is_refused_to_the_last_key() -> None:
    record = {"asr": {"successes": 3, "n": 4}, "rows": []}
    assert checked(Row, record, "record") is record
    wrong = {"asr": {"n": 100}, "rows": [{"successes": [1], "n": 2, "m": 3}]}
    assert sorted(lines(lambda: checked(Row, wrong, "record"))) == [
        "record: rows[0].successes must be a whole number; got [1]",
        "record: the key 'asr.successes' is missing",
        "record: unknown key 'rows[0].m'; valid keys are n, successes",
    ]
    assert lines(lambda: checked(Row, [], "record")) == ["record: must be a table; got []"]
    assert "a table cannot hold" in lines(lambda: checked(Row, {"asr": object()}, "record"))[0]


def test_the_schema_says_the_same() -> None:
    for kind in (Outer, Row):
        Draft202012Validator.check_schema(json_schema(kind))
    outer = Draft202012Validator(json_schema(Outer))
    assert outer.is_valid({"rate": 1, "inner": {"count": 2}})
    assert not outer.is_valid({"rate": 1, "inner": {"count": 0}})
    assert not outer.is_valid({"rate": 1, "rates": 2})
    row = Draft202012Validator(json_schema(Row))
    assert row.is_valid({"asr": {"successes": 1, "n": 2}, "rows": []})
    assert not row.is_valid({"asr": {"n": 2}, "rows": []})
    assert not row.is_valid({"asr": {"successes": 1, "n": 2}, "rows": [], "x": 1})
