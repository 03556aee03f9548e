"""The report of a validation in two short forms: GitLab's Code Quality report, and a badge.

References:
    GitLab, "Code Quality: implement a custom tool" (a JSON array of issues).
    Shields.io, "Endpoint badge" (a JSON object that the badge is drawn from).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.files import sha256_of_bytes
from ..core.text import one_line
from .report_sarif import sarif_log

_BADGE_COLOURS = {"pass": "brightgreen", "fail": "red", "undecided": "yellow"}


def code_quality(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return an issue for each gate that did not pass and each step that failed; none for a pass.

    An undecided gate is an issue of lower severity: a model that is not proven is not clean.
    """
    (run,) = sarif_log(report)["runs"]
    undecided = {check["name"] for check in report["checks"] if check["outcome"] == "undecided"}
    issues = []
    for result in run["results"]:
        if result["kind"] == "pass":
            continue
        about = result["partialFingerprints"]["gate/v1"]
        severity = "major" if about in undecided else "critical"
        issues.append(_issue(result["ruleId"], about, result["message"]["text"], severity, report))
    if report["exit_code"] and not issues:
        # Every gate passed, but the verdict is not a pass: a report could not be written.
        reason = one_line(report["reason"]) or report["outcome"]
        issues.append(_issue("broken", "verdict", reason, "critical", report))
    return issues


def _issue(
    rule: str, about: str, text: str, severity: str, report: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "description": text,
        "check_name": rule,
        "fingerprint": sha256_of_bytes(f"{rule} {about}".encode()),
        "severity": severity,
        "location": {
            "path": one_line(report["bundle"]["file"]) or "bundle",
            "lines": {"begin": 1},
        },
    }


def badge(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verdict and the highest attack success rate of a gated patch, for an endpoint
    badge."""
    rates = [
        patch["asr"]["value"] for patch in report["patches"] if patch["gated"] and patch["asr"]
    ]
    bits = report["bundle"]["bit_width"]
    message = str(report["outcome"])
    if rates:
        message += f", ASR {max(rates):.1%}" + ("" if bits is None else f" at {bits} bits")
    return {
        "schemaVersion": 1,
        "label": "patch robustness",
        "message": message,
        "color": _BADGE_COLOURS.get(report["outcome"], "lightgrey"),
    }
