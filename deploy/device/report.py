"""The report of a validation: JSON for programs, JUnit XML for continuous integration."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeGuard
from xml.etree import ElementTree

from ..core.errors import InputError, QadtrError
from ..core.files import STDOUT, is_stream, write_to
from ..core.json_schema import SchemaMismatch, check, load_schema
from ..core.strict_json import json_bytes, read_json
from ..core.text import one_line, printable
from .report_markdown import markdown_text
from .report_sarif import sarif_log
from .report_short import badge, code_quality

FORMAT = "qadtr-validation"
FORMAT_VERSION = 2
SCHEMA = "validation-report-2"
"""Name of the published JSON Schema, ``schemas/validation-report-2.json`` beside this file."""

OUTCOMES = {0: "pass", 1: "fail", 2: "error", 3: "undecided", 4: "error"}
"""What each exit code means."""


def empty_report(bundle: str) -> dict[str, Any]:
    """Return a report in which nothing has happened yet: an error until its outcome is set."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "outcome": "error",
        "exit_code": 2,
        "reason": "the validation did not finish",
        "images": None,
        "bundle": {
            "file": printable(bundle),
            "name": None,
            "bit_width": None,
            "manifest_sha256": None,
            "authentication": "unauthenticated",
        },
        "host": None,
        "engine": None,
        "quick": False,
        "images_used": 0,
        "images_total": 0,
        "thresholds": None,
        "attack_checks": None,
        "steps": [],
        "golden": None,
        "certificate": None,
        "clean": None,
        "patches": [],
        "search": None,
        "certification": None,
        "checks": [],
        "latency": None,
        "peak_memory_bytes": None,
    }


def read_report(path: Path) -> dict[str, Any]:
    """Return a ``report.json`` of the validator; version 1 is converted to the current form.

    Raises:
        InputError: a file of another kind, a damaged one, or one of an unknown version.
    """
    raw = read_json(path)
    if not is_report(raw):
        raise InputError(f"{path} is not a report.json of the validator")
    version = raw.get("format_version")
    if type(version) is not int or version not in (1, FORMAT_VERSION):
        raise InputError(
            f"{path} has format version {str(version)[:40]!r}, but this qadtr reads 1 and "
            f"{FORMAT_VERSION}"
        )
    report: dict[str, Any] = raw if version == FORMAT_VERSION else _from_version_1(raw)
    try:
        check(report, load_schema(SCHEMA, __package__))
    except SchemaMismatch as error:
        raise InputError(f"{path} is not a complete report of the validator: {error}") from error
    return report


def is_report(raw: object) -> TypeGuard[dict[str, Any]]:
    """Whether JSON values are marked as a report."""
    return isinstance(raw, dict) and raw.get("format") == FORMAT


def _from_version_1(value: Any) -> Any:
    """Convert a report of version 1, which had two forms of a share with different field names."""
    if isinstance(value, list):
        return [_from_version_1(item) for item in value]
    if not isinstance(value, dict):
        return value
    for rate, k in (("asr", "successes"), ("accuracy", "correct")):
        if value.keys() == {rate, "n", k, "interval"} and isinstance(value["interval"], list):
            ends = dict(zip(("low", "high"), value["interval"], strict=False))
            return {"n": value["n"], "k": value[k], "value": value[rate], **ends}
    lifted = {key: _from_version_1(item) for key, item in value.items()}
    return lifted | ({"format_version": FORMAT_VERSION} if is_report(value) else {})


@contextmanager
def step(report: dict[str, Any], name: str) -> Iterator[None]:
    """Record in the report that a step was done, or that it failed and with which message."""
    start = time.perf_counter()
    entry: dict[str, Any] = {"name": name, "ok": False, "seconds": 0.0, "error": None}
    report["steps"].append(entry)
    try:
        yield
        entry["ok"] = True
    except BaseException as error:
        entry["error"] = one_line(f"{error}" or type(error).__name__)
        raise
    finally:
        entry["seconds"] = time.perf_counter() - start


def conclude(report: dict[str, Any], exit_code: int, reason: str) -> None:
    """Write the verdict into the report."""
    report.update(exit_code=exit_code, outcome=OUTCOMES[exit_code], reason=one_line(reason))


@dataclass(frozen=True, kw_only=True)
class ReportPlaces:
    """The paths of the forms of a report; ``-`` is standard output, None leaves a form out."""

    json: Path | None
    junit: Path | None
    sarif: Path | None = None
    markdown: Path | None = None
    code_quality: Path | None = None
    badge: Path | None = None

    def forms(self, report: dict[str, Any]) -> list[tuple[Path, bytes]]:
        """Each place with its bytes, JSON last."""
        every = (
            (self.junit, junit_xml),
            (self.sarif, lambda told: json_bytes(sarif_log(told))),
            (self.markdown, lambda told: markdown_text(told).encode("utf-8")),
            (self.code_quality, lambda told: json_bytes(code_quality(told))),
            (self.badge, lambda told: json_bytes(badge(told))),
            (self.json, json_bytes),
        )
        return [(place, form(report)) for place, form in every if place is not None]


def void_reports(report: dict[str, Any], places: ReportPlaces) -> None:
    """Write a report in which nothing has happened, so that no earlier one is taken for this run's.

    Pipes, devices and standard output are left for the verdict. Where a place is not writable, the
    others are voided nevertheless, and the file there is removed.

    Raises:
        InputError: a place is not writable.
    """
    errors = []
    for place, data in places.forms(report):
        if place != STDOUT and not is_stream(place):
            try:
                write_to(place, data)
            except QadtrError as error:
                errors.append(error)
                _remove(place)
    if errors:
        raise errors[0]


def write_report(report: dict[str, Any], places: ReportPlaces) -> None:
    """Write the forms, each atomically: a reader sees the old file or the whole new one.

    Where one cannot be written, the verdict in all others is an error, and the file that cannot be
    written is removed: no form states "pass".

    Raises:
        InputError: a place is not writable; the report states this too.
    """
    try:
        for place, data in places.forms(report):
            write_to(place, data)
    except QadtrError as error:
        conclude(report, 2, f"{error}; the outcome of the gates was: {report['outcome']}")
        for place, data in places.forms(report):
            try:
                if place != STDOUT:
                    write_to(place, data)
            except QadtrError:
                if not is_stream(place):
                    _remove(place)
        raise


def _remove(place: Path) -> None:
    """Remove the file of a form; a link to it stays."""
    target = Path(os.path.realpath(place))
    with suppress(OSError):
        if not target.is_symlink():
            target.unlink(missing_ok=True)


def junit_xml(report: dict[str, Any]) -> bytes:
    """Return the report as JUnit XML: a test case per step and per gate.

    A failed gate is a failure; an undecided one and a failed step are errors.
    """
    cases = []
    for entry in report["steps"]:
        case = _case("qadtr.steps", entry["name"], entry["seconds"])
        if not entry["ok"]:
            _mark(case, "error", "broken", entry["error"])
        cases.append(case)
    for gate in report["checks"]:
        case = _case("qadtr.gate", gate["name"], 0.0)
        if gate["outcome"] == "fail":
            _mark(case, "failure", "gate", gate["reason"])
        elif gate["outcome"] == "undecided":
            _mark(case, "error", "undecided", gate["reason"])
        cases.append(case)
    verdict = _case("qadtr", "verdict", 0.0)
    if report["exit_code"]:
        kind = "failure" if report["exit_code"] == 1 else "error"
        _mark(verdict, kind, report["outcome"], report["reason"])
    cases.append(verdict)
    suite = ElementTree.Element(
        "testsuite",
        name=printable(f"qadtr validate {report['bundle']['file']}"),
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped="0",
        time=f"{sum(entry['seconds'] for entry in report['steps']):.3f}",
        timestamp=report["date"].partition("+")[0],
    )
    suite.extend(cases)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    body: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return body + b"\n"


def _case(classname: str, name: str, seconds: float) -> ElementTree.Element:
    return ElementTree.Element(
        "testcase", classname=classname, name=printable(name), time=f"{seconds:.3f}"
    )


def _mark(case: ElementTree.Element, tag: str, kind: str, message: str) -> None:
    ElementTree.SubElement(case, tag, type=kind, message=printable(message))
