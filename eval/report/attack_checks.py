"""The verdicts of the attack checks, one by one: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND, MARK
from deploy.core.bit_widths import bits_label
from deploy.core.errors import NothingToEvaluate
from deploy.core.html import Html, join, tag
from deploy.core.table import Cell, Table
from eval.measure.checks.catalogue import CATALOGUE
from eval.measure.checks.checks_record import (
    AttackChecks,
    CheckResult,
    ChecksRecord,
    attack_checks_from_records,
)
from eval.report.document import small, verdict
from eval.report.names import Names, names_from_records
from eval.report.words import MISSING, images_words

_TAGS = {"passed": "good", "tripped": "bad", "undecided": "warn", "not run": "warn"}


def checks_table(records: Sequence[ChecksRecord], names: Names = Names()) -> str:  # noqa: B008
    """A block for each network: the checks by name, a column for each bit-width; below it what
    tripped or was undecided, with its figures.

    Raises:
        NothingToEvaluate: there is no record.
    """
    if not records:
        raise NothingToEvaluate("no attack checks found; run `qadtr checks RUN` first")
    return "\n\n".join(_table(group, names).text() for group in _groups(records))


def doubtful_checks(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each check that tripped or was undecided, with its network and its figures.

    Raises:
        InputError: a record lacks a field.
    """
    records = list(records)
    names = names_from_records(records)
    return [
        f"{names.of(group[0]['model'])}, {line}"
        for group in _groups(_all(attack_checks_from_records(records)))
        for line in _table(group, names).notes
    ]


def checks_section(checks: AttackChecks, names: Names) -> Html:
    """The checks as tables of the page; empty where none was run."""
    found = _all(checks)
    if not found:
        return Html("")
    explained = (
        "Whether the attack success rates of each network can be trusted. Each check, its "
        f"threshold and its source are described in docs/checks.md. {LOWER_BOUND}"
    )
    # What each check asks stands in the first table; the others have the same rows.
    tables = [
        _table(group, names, explain=i == 0, notes=False).html(
            about=f"Attack checks: {_title(group, names)}", kind="checks"
        )
        for i, group in enumerate(_groups(found))
    ]
    return join(small(explained), tables)


def _all(checks: AttackChecks) -> list[ChecksRecord]:
    newest: dict[tuple[object, ...], ChecksRecord] = {}
    for record in checks.planted:
        model = record["model"]
        newest[model["checkpoint_sha256"], model["bit_width"], model["planted"]] = record
    return [*checks.by_model.values(), *newest.values()]


def _groups(records: Sequence[ChecksRecord]) -> list[list[ChecksRecord]]:
    """The records of one network each, widest first."""
    groups: dict[tuple[object, ...], list[ChecksRecord]] = {}
    for record in records:
        model = record["model"]
        groups.setdefault((model["checkpoint_sha256"], model["planted"]), []).append(record)
    return [
        sorted(group, key=lambda record: -record["model"]["bit_width"]) for group in groups.values()
    ]


def _title(group: Sequence[ChecksRecord], names: Names) -> str:
    model = group[0]["model"]
    behind = "" if model["planted"] is None else f" behind the planted fake {model['planted']}"
    counts = ", ".join(dict.fromkeys(str(record["checked_images"]) for record in group))
    return f"{names.of(model)}{behind}, {images_words(group[0]['images'])}, {counts} images"


def _table(
    group: Sequence[ChecksRecord], names: Names, *, explain: bool = False, notes: bool = True
) -> Table:
    """A row for each check, a column for each bit-width.

    Args:
        explain: say under its name what a check asks.
        notes: name below the table what tripped or was undecided.
    """
    found = {
        bits_label(record["model"]["bit_width"]): {one["name"]: one for one in record["checks"]}
        for record in group
    }
    present = dict.fromkeys(name for checks in found.values() for name in checks)
    rows = [*(n for n in CATALOGUE if n in present), *(n for n in present if n not in CATALOGUE)]
    doubtful = [
        f"{bits}, {name} {_shown(checks[name])}: {checks[name]['measured']}"
        for bits, checks in found.items()
        for name in rows
        if name in checks and checks[name]["status"] in ("tripped", "undecided")
    ]
    return Table(
        title=_title(group, names),
        columns=["check", *found],
        rows=[
            [
                _named(name, explain=explain),
                *(_cell(checks.get(name)) for checks in found.values()),
            ]
            for name in rows
        ],
        notes=doubtful if notes else (),
    )


def _named(name: str, *, explain: bool) -> Cell:
    check = CATALOGUE.get(name) if explain else None
    asks = tag("small", "" if check is None else f"{check.title}. Trips when {check.trips}.")
    return Cell(name, html=[name, asks] if explain else None)


def _cell(check: CheckResult | None) -> Cell:
    if check is None:
        return Cell(MISSING)
    tagged = verdict(_shown(check), _TAGS[check["status"]])
    return Cell(_shown(check), html=[tagged, tag("small", check["measured"])])


def _shown(check: CheckResult) -> str:
    return f"{MARK} TRIPPED" if check["status"] == "tripped" else check["status"]
