"""The report of a validation as a SARIF 2.1.0 log, for code scanning pages.

Reference: OASIS, Static Analysis Results Interchange Format (SARIF) version 2.1.0, 2020. Sections
in the comments are of that document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ..core.text import one_line
from .gate import REACHED_A_VERDICT

SARIF_VERSION = "2.1.0"
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

_RULES = {  # by the first word of a gate's name; "gate" is for any other
    "max_asr": "The attack success rate of a gated patch must be under its threshold.",
    "max_drift": (
        "The attack success rate must not differ from the lab's by more than its threshold."
    ),
    "min_clean": "The clean accuracy must be over its threshold.",
    "min_certified": "The share of images with a certificate must be over its threshold.",
    "integer": "Every layer must run in integers.",
    "classes": "The network must tell the classes of the suite apart.",
    "gate": "A gate of the validation must pass.",
    "broken": "Every step of the validation must be possible and reproduce the lab's results.",
}


def sarif_log(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the log: a result for each gate and for each step that failed.

    A gate that passed is a result of kind "pass", a failed one is "fail" at level "error". An
    undecided one is "fail" too: "open" results are not shown by code scanning pages, and a model
    that is not proven must not look clean there.
    """
    results = [_result_of_check(check, report) for check in report["checks"]]
    failed = [step for step in report["steps"] if not step["ok"]]
    results += [
        _result("broken", "fail", f"{step['name']}: {step['error']}", report, step["name"])
        for step in failed
    ]
    told = any(result["kind"] == "fail" for result in results)
    if report["exit_code"] != 0 and not told:
        results.append(_result("broken", "fail", report["reason"], report, "verdict"))
    invocation: dict[str, Any] = {
        # §3.20.14: whether the tool completed its work; a failed gate is completed work.
        "executionSuccessful": report["exit_code"] in REACHED_A_VERDICT,
        "exitCode": report["exit_code"],
        "exitCodeDescription": one_line(report["reason"]) or report["outcome"],
        "endTimeUtc": report["date"].replace("+00:00", "Z"),
    }
    if failed:
        invocation["toolExecutionNotifications"] = [
            {
                "level": "error",
                "message": {"text": one_line(f"{step['name']}: {step['error']}")},
                "descriptor": {"id": "broken"},
            }
            for step in failed
        ]
    return {
        "$schema": SARIF_SCHEMA,
        "version": SARIF_VERSION,
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "qadtr validate",
                        "rules": [
                            {"id": name, "shortDescription": {"text": text}}
                            for name, text in _RULES.items()
                        ],
                    }
                },
                "invocations": [invocation],
                "results": results,
                "columnKind": "unicodeCodePoints",
            }
        ],
    }


def _result_of_check(check: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    first = check["name"].partition(" ")[0]
    rule = first if first in _RULES else "gate"
    kind = "pass" if check["outcome"] == "pass" else "fail"
    text = f"{check['name']}: {check['outcome']}: {check['reason']}"
    return _result(rule, kind, text, report, check["name"])


def _result(
    rule: str, kind: str, text: str, report: Mapping[str, Any], about: str
) -> dict[str, Any]:
    return {
        "ruleId": rule,
        "ruleIndex": list(_RULES).index(rule),
        "kind": kind,
        "level": "error" if kind == "fail" else "none",  # §3.27.10: anything but "fail" has none
        "message": {"text": one_line(text)},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(report["bundle"]["file"])},
                    "region": {"startLine": 1},
                }
            }
        ],
        # §3.27.17: identifies the same finding in the next run.
        "partialFingerprints": {"gate/v1": re.sub(r"\s+", " ", one_line(about))},
    }


def _uri(name: str) -> str:
    return quote(one_line(name)) or "bundle"
