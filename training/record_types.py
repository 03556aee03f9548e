"""The checked types that records consist of: digests, shares of images, outcomes.

The JSON forms of a share and of outcomes belong to ``deploy.core``, which has no pydantic; here
they get their limits. Record types are TypedDicts of ``typing_extensions`` (pydantic
needs those before Python 3.12); :func:`payloads` reads records with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Field, GetPydanticSchema, with_config
from typing_extensions import TypedDict

from deploy.core import outcomes, share
from deploy.core.errors import InputError
from deploy.core.records import records_so_far
from training.validated import AtLeast0, AtLeast1, checked

_T = TypeVar("_T")
_ROUNDING = 1e-9
"""Of k / n and the bounds, which were computed by other versions too."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Size = Annotated[list[AtLeast1], Field(min_length=2, max_length=2)]
"""[height, width] in pixels."""
Base64 = Annotated[str, Field(pattern="^[A-Za-z0-9+/]+={0,2}$")]
"""Such as the bytes of a PNG."""


class CheckedShare(TypedDict):
    """k of n, as a fraction in 0…1 with its 95% Wilson interval."""

    n: AtLeast1
    k: AtLeast0
    value: Fraction
    low: Fraction
    high: Fraction


class CheckedOutcomes(TypedDict):
    """One bit per patched image: hex of numpy's ``packbits``, in the order of the patch set."""

    n: AtLeast1
    first_index: AtLeast0
    indices: list[AtLeast0] | None
    clean_correct: str
    patched_correct: str
    eligible: str
    success: str


@with_config(ConfigDict(extra="allow"))
class Provenance(TypedDict):
    """Where a result comes from (``deploy.core.records.provenance``), and what a stage adds."""

    commit: str | None
    dirty: bool | None
    date: str
    seed: int | None
    config: dict[str, Any] | None
    command: list[str]
    python: str
    packages: dict[str, str]
    host: dict[str, Any]


def record_form(kind: str, payload: Any) -> Any:
    """The TypedDict of a whole record file, from that of its payload."""
    fields = {
        "format_version": Literal[1],
        "kind": Literal[kind],
        "payload": payload,
        "provenance": Provenance,
    }
    return cast(Any, TypedDict)(f"Record of kind {kind}", fields)


def _counts(found: share.Share) -> share.Share:
    n, k, value = found["n"], found["k"], found["value"]
    if k > n or abs(value - k / n) > _ROUNDING:
        raise ValueError(f"expected k of n with value = k / n, got {k} of {n} and {value}")
    if not found["low"] - _ROUNDING <= value <= found["high"] + _ROUNDING:
        raise ValueError(
            f"expected low ≤ value ≤ high, got {found['low']}, {value} and {found['high']}"
        )
    return found


def _bits_of_each(found: outcomes.Outcomes) -> outcomes.Outcomes:
    n, indices = found["n"], found["indices"]
    if indices is not None and (len(indices) != n or len(set(indices)) != n):
        raise ValueError(f"expected {n} different indices, got {len(indices)}")
    try:
        correct, _, eligible, success = (
            outcomes.unpack_bits(found[name], n)
            for name in ("clean_correct", "patched_correct", "eligible", "success")
        )
    except InputError as error:
        raise ValueError(str(error)) from error
    if (eligible & ~correct).any() or (success & ~eligible).any():
        raise ValueError(
            "expected success only on eligible images, and eligible images right without a patch"
        )
    return found


Share = Annotated[
    share.Share,
    GetPydanticSchema(lambda _, schema: schema(Annotated[CheckedShare, AfterValidator(_counts)])),
]
Outcomes = Annotated[
    outcomes.Outcomes,
    GetPydanticSchema(
        lambda _, schema: schema(Annotated[CheckedOutcomes, AfterValidator(_bits_of_each)])
    ),
]


def payload_of(record: Mapping[str, Any], form: type[_T]) -> _T:
    """The payload of a record, if it has the form of the TypedDict ``form``.

    Raises:
        InputError: a line for each fault.
    """
    where = f"a record of kind {record['kind']!r}"
    try:
        found: _T = checked(form, record["payload"], where)
    except InputError as error:
        raise InputError(
            f"{error}\nit was edited or written by another version; create it again, or read it "
            "with the version that wrote it"
        ) from error
    return found


def payloads(records: Iterable[Mapping[str, Any]], kind: str, form: type[_T]) -> list[_T]:
    """The payloads of one kind among ``records``, in their order; errors as :func:`payload_of`."""
    return [payload_of(record, form) for record in records if record["kind"] == kind]


def payloads_by_key(folder: Path, kind: str, form: type[_T]) -> dict[str, _T]:
    """The payloads of a kind in ``folder`` by their ``key``, so that none is made twice; empty
    where there is no folder yet. Errors as :func:`payload_of` and
    ``deploy.core.records.read_records``.
    """
    found = payloads(records_so_far(folder, kind), kind, form)
    return {cast(Any, one)["key"]: one for one in found}
