"""The reports of real validations, as SARIF, Markdown and JUnit, fit their forms."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import xmlschema

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.json_schema import load_schema
from deploy.core.stored_zip import write_stored_zip
from deploy.device.command import main
from deploy.device.report import conclude, empty_report, junit_xml, step
from deploy.device.report_markdown import markdown_text
from deploy.device.report_sarif import sarif_log
from tests.deploy.device.conftest import rehashed

jsonschema: Any = pytest.importorskip("jsonschema")
SARIF = json.loads((Path(__file__).parent / "sarif-2.1.0-subset.json").read_text())
JUNIT = xmlschema.XMLSchema(Path(__file__).parent / "junit-subset.xsd")


@pytest.fixture
def bundle(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model 1.qbundle"
    write_stored_zip(path, files)
    return path


def validated(bundle: Path, *words: str) -> tuple[int, dict[str, Any], dict[str, Any], str]:
    code = main([str(bundle), "--sarif", "gate.sarif", "--markdown", "summary.md", *words])
    sarif = json.loads(Path("gate.sarif").read_text())
    jsonschema.validate(sarif, SARIF, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    report = json.loads(Path("report.json").read_text())
    jsonschema.validate(report, load_schema("validation-report-2", "deploy.device"))
    check_junit(Path("junit.xml").read_bytes())
    return code, report, sarif, Path("summary.md").read_text()


def check_junit(data: bytes) -> None:
    """The schema, and what a schema cannot say: the counts."""
    JUNIT.validate(io.BytesIO(data))
    for suite in ElementTree.fromstring(data):
        assert int(suite.attrib["tests"]) == len(suite)
        for tag, count in (("failure", "failures"), ("error", "errors")):
            assert int(suite.attrib[count]) == sum(case.find(tag) is not None for case in suite)


@pytest.mark.parametrize("least", ["0.001", "0.999"])
def test_every_gate_that_there_is_has_its_rule(least: str, bundle: Path) -> None:
    words = ["--require-integer", "--certified", "1", "--certify-images", "40"]
    words += ["--masks-per-axis", "2", "--min-certified", least, "--code-quality", "gate.json"]
    words += ["--search", "--queries", "5", "--search-size", "2", "--max-search-asr", "0.99"]
    code, report, sarif, _ = validated(bundle, *words)
    assert code == report["exit_code"] == (0 if least == "0.001" else 1)
    rules = {rule for rule, _, _ in kinds(sarif)}
    assert rules == {"max_asr", "max_drift", "min_clean", "classes", "integer", "min_certified"}
    assert len(json.loads(Path("gate.json").read_text())) == code
    # One that a later release has is not a reason to lose the report.
    report["checks"][0]["name"] = "max_heat of the device"
    assert "gate" in {rule for rule, _, _ in kinds(sarif_log(report))}


def kinds(sarif: dict[str, Any]) -> list[tuple[str, str, str]]:
    (run,) = sarif["runs"]
    return [(one["ruleId"], one["kind"], one["level"]) for one in run["results"]]


CODE_QUALITY = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["description", "check_name", "fingerprint", "severity", "location"],
        "additionalProperties": False,
        "properties": {
            "description": {"type": "string", "minLength": 1},
            "check_name": {"type": "string"},
            "fingerprint": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "required": ["path", "lines"],
                "properties": {
                    "path": {"type": "string", "pattern": "^[^/]"},
                    "lines": {"type": "object", "required": ["begin"]},
                },
            },
        },
    },
}
"""What GitLab's page on custom tools asks of an issue."""


@pytest.mark.parametrize(
    ("words", "severities", "badge"),
    [
        ([], [], ("pass, ASR 1.7% at 4 bits", "brightgreen")),
        (["--max-asr", "0.0001"], ["critical"], ("fail, ASR 1.7% at 4 bits", "red")),
        (["--max-asr", "0.02"], ["major"], ("undecided, ASR 1.7% at 4 bits", "yellow")),
    ],
)
def test_code_quality_and_badge(
    words: list[str], severities: list[str], badge: tuple[str, str], bundle: Path
) -> None:
    validated(bundle, "--code-quality", "quality.json", "--badge", "badge.json", *words)
    issues = json.loads(Path("quality.json").read_text())
    jsonschema.validate(issues, CODE_QUALITY)
    assert [one["severity"] for one in issues] == severities
    assert all(one["location"]["path"] == "model 1.qbundle" for one in issues)
    found = json.loads(Path("badge.json").read_text())
    assert (found["message"], found["color"]) == badge
    assert (found["schemaVersion"], found["label"]) == (1, "patch robustness")


def test_a_broken_bundle_has_an_issue_and_a_grey_badge(bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-9])
    validated(bundle, "--code-quality", "quality.json", "--badge", "badge.json")
    issues = json.loads(Path("quality.json").read_text())
    jsonschema.validate(issues, CODE_QUALITY)
    assert [one["check_name"] for one in issues] == ["broken"]
    assert json.loads(Path("badge.json").read_text())["message"] == "error"


def test_a_pass(bundle: Path) -> None:
    code, _, sarif, markdown = validated(bundle)
    assert code == 0
    assert kinds(sarif) == [
        ("max_asr", "pass", "none"),
        ("max_drift", "pass", "none"),
        ("min_clean", "pass", "none"),
        ("classes", "pass", "none"),
    ]
    (run,) = sarif["runs"]
    assert run["invocations"][0]["executionSuccessful"] is True
    place = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "model%201.qbundle"
    assert markdown.startswith("## PASS: small network\n")
    assert "| max\\_asr of quiet | pass | 50.00% |" in markdown
    assert "loud (not gated)" in markdown


def test_a_fail_and_an_undecided_gate_are_findings(bundle: Path) -> None:
    code, _, sarif, markdown = validated(bundle, "--max-asr", "0.0001")
    assert code == 1
    assert ("max_asr", "fail", "error") in kinds(sarif)
    assert markdown.startswith("## FAIL")
    code, _, sarif, markdown = validated(bundle, "--max-asr", "0.02")
    assert code == 3
    assert ("max_asr", "fail", "error") in kinds(sarif)
    assert markdown.startswith("## UNDECIDED")


def test_a_broken_bundle_is_a_finding_and_a_notification(bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-5])
    code, _, sarif, markdown = validated(bundle)
    assert code == 2
    assert kinds(sarif) == [("broken", "fail", "error")]
    (invocation,) = sarif["runs"][0]["invocations"]
    assert invocation["executionSuccessful"] is False
    assert invocation["toolExecutionNotifications"][0]["level"] == "error"
    assert "step *signature and hashes* failed" in markdown


def test_a_verdict_that_could_not_be_written_is_a_finding(bundle: Path) -> None:
    code, report, sarif, _ = validated(bundle)
    assert code == 0
    assert {kind for _, kind, _ in kinds(sarif)} == {"pass"}
    conclude(report, 2, "junit.xml cannot be written: No space left on device")
    (broken,) = [one for one in kinds(sarif_log(report)) if one[1] != "pass"]
    assert broken == ("broken", "fail", "error")


def test_an_error_before_the_first_step_is_a_finding(bundle: Path) -> None:
    code, report, sarif, _ = validated(bundle, "--threads", "0")
    assert (code, report["steps"]) == (4, [])
    assert kinds(sarif) == [("broken", "fail", "error")]


def test_a_rate_whose_attack_check_tripped_is_marked_everywhere(
    files: dict[str, bytes], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, report, _, markdown = validated(bundle)
    assert "on this model: not checked" in capsys.readouterr().out
    assert "on this model: not checked." in markdown
    assert report["attack_checks"] is None
    facts = {"tripped": ["doubled-steps"], "words": "TRIPPED: doubled-steps; 14 passed"}
    write_stored_zip(bundle, rehashed(files, lambda m: m.update(attack_checks=facts)))
    code, report, sarif, markdown = validated(bundle)
    said = capsys.readouterr().out
    assert code == 0  # a finding about the attack; the gate is on the bundle's patches
    assert report["attack_checks"] == facts
    assert "on this model: TRIPPED: doubled-steps; 14 passed" in said
    assert said.count("ASR†") == len(report["patches"]) == 2
    assert report["reason"].endswith("(† a lower bound: tripped doubled-steps)")
    for check in report["checks"]:
        about_the_patch = check["name"] not in ("min_clean", "classes predicted")
        assert ("†" in check["reason"]) == about_the_patch
    assert any("†" in one["message"]["text"] for one in sarif["runs"][0]["results"])
    rows = [line for line in markdown.splitlines() if line.startswith(("| quiet", "| loud"))]
    assert [row.count("%†") for row in rows] == [2, 2]  # here and in the lab, not the noise
    assert LOWER_BOUND in markdown
    wrong = {"tripped": "doubled-steps", "words": "w"}
    write_stored_zip(bundle, rehashed(files, lambda m: m.update(attack_checks=wrong)))
    code, report, _, _ = validated(bundle)
    assert code == 2
    assert "attack_checks" in report["reason"]


def test_names_from_a_bundle_write_nothing_into_a_page(
    files: dict[str, bytes], bundle: Path
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["name"] = "<img src=x onerror=alert(1)> | [link](http://x) `code`"

    write_stored_zip(bundle, rehashed(files, change))
    _, _, _, markdown = validated(bundle)
    assert "<img" not in markdown
    assert "[link](" not in markdown
    assert "\\`code\\`" in markdown


def test_forms_of_a_report_with_characters_that_xml_lacks() -> None:
    report = empty_report("a\x00b\ud800.qbundle")
    with pytest.raises(ValueError, match="bad"), step(report, "signature and hashes"):
        raise ValueError("bad \x01 byte")
    conclude(report, 2, "bad \x01 byte")
    check_junit(junit_xml(report))
    jsonschema.validate(sarif_log(report), SARIF)
    markdown_text(report).encode("utf-8")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda run: run["results"][0].update(level="fatal"),
        lambda run: run["results"][0].update(kind="pass", level="error"),
        lambda run: run["results"][0].pop("message"),
        lambda run: run["tool"]["driver"].pop("name"),
        lambda run: run["invocations"][0].pop("executionSuccessful"),
        lambda run: run.update(made_up=1),
    ],
)
def test_the_subset_finds_mistakes(spoil: Callable[[dict[str, Any]], object]) -> None:
    report = empty_report("b")
    conclude(report, 2, "broken")
    log = sarif_log(report)
    jsonschema.validate(log, SARIF)
    spoil(log["runs"][0])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(log, SARIF)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<testcase ", b"<test "),
        (b'classname="qadtr"', b""),
        (b'time="', b'time="-1'),
        (b' type="error"', b' kind="error"'),
        (b'errors="1"', b'errors="one"'),
        (b'timestamp="', b'timestamp="on '),
        (b"</testcase>", b"<failure/></testcase>"),
    ],
)
def test_the_junit_schema_finds_mistakes(old: bytes, new: bytes) -> None:
    report = empty_report("b")
    conclude(report, 2, "broken")
    good = junit_xml(report)
    check_junit(good)
    assert old in good
    with pytest.raises((xmlschema.XMLSchemaException, ElementTree.ParseError)):
        check_junit(good.replace(old, new))
