"""The report of a validation in two short forms: GitLab's Code Quality report, and a badge.

References:
    GitLab, "Code Quality: implement a custom tool" (a JSON array of issues).
    Shields.io, "Endpoint badge" (a JSON object that the badge is drawn from).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from ..core.files import sha256_of_bytes
from .report_sarif import sarif_log

_BADGE_COLOURS = {"pass": "brightgreen", "fail": "red", "undecided": "yellow"}


def code_quality(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return an issue for each gate that did not pass and each step that failed; none for a pass.

    An undecided gate is an issue of less severity: a model that is not proven is not clean.
    """
    (run,) = sarif_log(report)["runs"]
    undecided = {check["name"] for check in report["checks"] if check["outcome"] == "undecided"}
    issues = []
    for result in run["results"]:
        if result["kind"] == "pass":
            continue
        about = result["partialFingerprints"]["gate/v1"]
        place = result["locations"][0]["physicalLocation"]
        issues.append(
            {
                "description": result["message"]["text"],
                "check_name": result["ruleId"],
                "fingerprint": sha256_of_bytes(f"{result['ruleId']} {about}".encode()),
                "severity": "major" if about in undecided else "critical",
                "location": {
                    "path": unquote(place["artifactLocation"]["uri"]),
                    "lines": {"begin": place["region"]["startLine"]},
                },
            }
        )
    return issues


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
