"""The verdicts of the attack checks, one by one: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND, MARK
from deploy.core.errors import NothingToEvaluate
from eval.measure.checks.catalogue import CATALOGUE
from eval.measure.checks.checks_record import (
    AttackChecks,
    CheckResult,
    ChecksRecord,
    attack_checks_from_records,
)
from eval.report.html import Html, join, tag
from eval.report.numbers import MISSING
from eval.report.rows import bits_label, model_name
from eval.report.scrolled_table import scrolled_table

_TAGS = {"passed": "good", "tripped": "bad", "undecided": "warn", "not run": "warn"}


def checks_table(records: Sequence[ChecksRecord]) -> str:
    """A block for each network: the checks by name, a column for each bit-width; below it what
    tripped or was undecided, with its figures.

    Raises:
        NothingToEvaluate: there is no record.
    """
    if not records:
        raise NothingToEvaluate("There are no attack checks; run `qadtr checks RUN` first.")
    return "\n\n".join(_block(group) for group in _groups(records))


def all_checks_table(records: Iterable[Mapping[str, Any]]) -> str:
    """The same for the records of any kind of several runs, planted fakes last.

    Raises:
        InputError: a record lacks a field.
        NothingToEvaluate: there are none of the attack checks.
    """
    return checks_table(_all(attack_checks_from_records(records)))


def checks_section(checks: AttackChecks) -> Html:
    """The same as tables of the page; nothing where nobody looked."""
    found = _all(checks)
    if not found:
        return Html("")
    explained = tag(
        "p",
        "Whether the attacks on each network can be believed: each check, its threshold and its "
        f"source are in docs/checks.md. {LOWER_BOUND}",
        class_="soft small",
    )
    # What each check asks stands in the first table; the others have the same rows.
    return join(explained, [_html(group, explain=i == 0) for i, group in enumerate(_groups(found))])


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


def _title(group: Sequence[ChecksRecord]) -> str:
    model, images = group[0]["model"], group[0]["images"]
    name = model_name(model["network"], model["defense"])
    behind = "" if model["planted"] is None else f" behind the planted fake {model['planted']}"
    counts = ", ".join(dict.fromkeys(str(record["checked_images"]) for record in group))
    return f"{name}{behind}, {images['name']}, {images['split']} split, {counts} images"


def _by_name(record: ChecksRecord) -> dict[str, CheckResult]:
    return {check["name"]: check for check in record["checks"]}


def _names(group: Sequence[ChecksRecord]) -> list[str]:
    present = dict.fromkeys(check["name"] for record in group for check in record["checks"])
    return [*(n for n in CATALOGUE if n in present), *(n for n in present if n not in CATALOGUE)]


def _status(record: ChecksRecord, name: str) -> str:
    check = _by_name(record).get(name)
    return MISSING if check is None else check["status"]


def _shown(status: str) -> str:
    return f"{MARK} TRIPPED" if status == "tripped" else status


def _block(group: Sequence[ChecksRecord]) -> str:
    names = _names(group)
    rows = [["", *(bits_label(record["model"]["bit_width"]) for record in group)]]
    rows += [[name, *(_shown(_status(record, name)) for record in group)] for name in names]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([_title(group), "", *lines, *_details(group, names)])


def _details(group: Sequence[ChecksRecord], names: Sequence[str]) -> list[str]:
    lines = []
    for record in group:
        bits = bits_label(record["model"]["bit_width"])
        for name in names:
            check = _by_name(record).get(name)
            if check is not None and check["status"] in ("tripped", "undecided"):
                lines.append(f"{bits}, {name} {_shown(check['status'])}: {check['measured']}")
    return ["", *lines] if lines else []


def _html(group: Sequence[ChecksRecord], *, explain: bool) -> Html:
    head = tag(
        "tr",
        tag("th", "check", scope="col"),
        [tag("th", bits_label(r["model"]["bit_width"]), scope="col") for r in group],
    )
    rows = [
        tag(
            "tr",
            tag("th", name, tag("small", _asks(name)) if explain else "", scope="row"),
            [_cell(_by_name(record).get(name)) for record in group],
        )
        for name in _names(group)
    ]
    title = _title(group)
    return scrolled_table(head, rows, about=f"Attack checks: {title}", caption=title, kind="checks")


def _asks(name: str) -> str:
    check = CATALOGUE.get(name)
    return "" if check is None else f"{check.title}. Trips when {check.trips}."


def _cell(check: CheckResult | None) -> Html:
    if check is None:
        return tag("td", MISSING)
    status = check["status"]
    return tag(
        "td",
        tag("span", _shown(status), class_=f"tag {_TAGS[status]}"),
        tag("small", check["measured"]),
    )
