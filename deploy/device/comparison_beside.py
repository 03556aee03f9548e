"""Comparing the searches, certificates and integer checks of two reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..core.share import share_in_words
from ..core.strict_json import read_json
from .report import is_report, read_report

_ALMOST = 0.9
"""Share of the old number of images that counts as no fewer: which images count may change by a
few."""


class Beside(NamedTuple):
    """The results that are worse in the new report, and those not measured as in the old one."""

    worse: list[str]
    not_measured: list[str]


def compare_beside(old: Path, new: Path) -> Beside:
    """Compare the searches and certificates of two reports; other results have none.

    They are of images that each engine classifies correctly, so they are not paired: a share is
    worse where its 95% interval does not overlap the old one.

    Args:
        old: a ``report.json``, or any other result.
        new: likewise.

    Raises:
        InputError: a file that is damaged.
    """
    found = Beside([], [])
    before, after = _report(old), _report(new)
    if before is None or after is None:
        return found
    _search(before.get("search"), after.get("search"), found)
    _certified(before.get("certification"), after.get("certification"), found)
    layers = sum((after.get("in_float") or {}).values())
    if layers and not sum((before.get("in_float") or {}).values()):
        found.worse.append(f"integers: {layers} layers run in float, before none did")
    return found


def _report(path: Path) -> Mapping[str, Any] | None:
    if path.is_dir():
        return None
    return read_report(path) if is_report(read_json(path)) else None


def _search(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, found: Beside) -> None:
    if old is None:
        return
    if new is None:
        found.not_measured.append("the search for patches is not in the new result")
        return
    for name in ("size_px", "answers", "location", "target"):
        if old[name] != new[name]:
            found.not_measured.append(f"the search had {name} {old[name]}, now it has {new[name]}")
    if new["queries"] < old["queries"]:
        found.not_measured.append(
            f"the search had {old['queries']} queries, now it has {new['queries']}"
        )
    _fewer("the search", old["asr"], new["asr"], found)
    if new["asr"]["low"] > old["asr"]["high"]:
        found.worse.append(f"ASR of the search: {_between(old['asr'], new['asr'])}")


def _certified(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, found: Beside) -> None:
    if old is None:
        return
    if new is None:
        found.not_measured.append("the certified accuracy is not in the new result")
        return
    if new["patch_px"] < old["patch_px"]:
        found.not_measured.append(
            f"the certificate was against patches of {old['patch_px']} px, now of "
            f"{new['patch_px']} px"
        )
    _fewer("the certificate", old["certified"], new["certified"], found)
    if new["certified"]["high"] < old["certified"]["low"]:
        found.worse.append(f"certified accuracy: {_between(old['certified'], new['certified'])}")


def _fewer(what: str, old: Mapping[str, Any], new: Mapping[str, Any], found: Beside) -> None:
    if new["n"] < _ALMOST * old["n"]:
        found.not_measured.append(f"{what} was on {old['n']} images, now on {new['n']}")


def _between(old: Any, new: Any) -> str:
    return f"{share_in_words(old)} -> {share_in_words(new)}"
