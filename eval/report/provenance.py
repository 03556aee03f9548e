"""Commit, machine, packages, seeds, commands and configurations behind the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.core.html import Html, join, tag
from eval.report.document import facts
from eval.report.rows import ResultTable


def provenance_section(records: Sequence[Mapping[str, Any]], tables: Sequence[ResultTable]) -> Html:
    """One list for all records of the same commit, machine and packages; then the images."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        origin = record["provenance"]
        key = json.dumps([origin.get(k) for k in _SAME], sort_keys=True, default=str)
        groups.setdefault(key, []).append(record)
    digests = [
        (f"{table.images_name}, {table.split}", tag("code", f"SHA-256 {table.digest}"))
        for table in tables
    ]
    return join([_origin(group) for group in groups.values()], tag("h3", "Images"), facts(digests))


_SAME = ("commit", "dirty", "python", "packages", "host")


def _origin(group: Sequence[Mapping[str, Any]]) -> Html:
    origin = group[0]["provenance"]
    dates = sorted(str(record["provenance"].get("date", "unknown")) for record in group)
    seeds = sorted({str(record["provenance"].get("seed")) for record in group})
    commands = dict.fromkeys(
        " ".join(map(str, record["provenance"].get("command") or [])) for record in group
    )
    commit = origin.get("commit")
    state = {True: " with uncommitted changes", False: "", None: ""}[origin.get("dirty")]
    packages = origin.get("packages") or {}
    found = [
        ("Records", f"{len(group)}, {dates[0]} to {dates[-1]}"),
        ("Commit", f"{commit}{state}" if commit else "unknown: not run from a checkout"),
        ("Seeds", ", ".join(seeds)),
        ("Machine", _words(origin.get("host"))),
        ("Python", str(origin.get("python", "unknown"))),
        ("Packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
    ]
    configs = {
        json.dumps(record["provenance"]["config"], indent=2, sort_keys=True, ensure_ascii=False)
        for record in group
        if record["provenance"].get("config")
    }
    return join(
        facts(found),
        _folded("Commands", "\n".join(command for command in commands if command)),
        [_folded("Configuration", config) for config in sorted(configs)],
    )


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_words(v)}" for key, v in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_words(v) for v in value)
    return "unknown" if value is None else str(value)


def _folded(title: str, text: str) -> Html:
    if not text:
        return Html("")
    return tag("details", tag("summary", title), tag("pre", text, tabindex="0"))
