"""The report of a validation as a short Markdown text, for the summary page of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.attack_checks import LOWER_BOUND, AttackVerdict
from ..core.share import share_in_words
from ..core.table import Table
from ..core.text import in_markdown


def markdown_text(report: Mapping[str, Any]) -> str:
    """Return the verdict, the gates, the patches and what they were measured on.

    Names come from the bundle: they are escaped, so that none can add markup to the page.
    """
    bundle = report["bundle"]
    lines = [
        f"## {report['outcome'].upper()}: {in_markdown(bundle['name'] or bundle['file'])}",
        "",
        f"Exit code {report['exit_code']}: {in_markdown(report['reason'])}",
        "",
        *_facts(report),
    ]
    if report["checks"]:
        lines += [_gates(report["checks"]).markdown(), ""]
    verdict = AttackVerdict.of(report.get("attack_checks"))
    if report["patches"]:
        lines += [_patches(report["patches"], verdict.mark).markdown(), ""]
        lines += [f"The lab's checks of its attacks on this model: {in_markdown(verdict.words)}."]
        lines += [*([LOWER_BOUND] if verdict.tripped else []), ""]
    search = report.get("search")
    if search is not None:
        how = f"{search['queries']} queries per image, {search['size_px']} px"
        what = f"Search on the device ({search['attack']}, {how}, by {search['answers']})"
        lines += [
            f"{what}: ASR {_asr(search['asr'], verdict.mark)} of {search['asr']['n']} images.",
            "",
        ]
    certification = report.get("certification")
    if certification is not None:
        size, share = certification["patch_px"], share_in_words(certification["certified"])
        said = f"No patch of {size} px can win against masked inference on {share} images"
        attacks = certification.get("attacks", [])
        if attacks:
            worst = max(attacks, key=lambda one: one["asr"]["value"])
            won = share_in_words(worst["asr"])
            said += (
                f"; of the bundle's patches {in_markdown(worst['patch'])} succeeds most "
                f"often: {won}"
            )
        lines += [f"{said}.", ""]
    failed = [step for step in report["steps"] if not step["ok"]]
    lines += [
        f"- step *{in_markdown(one['name'])}* failed: {in_markdown(one['error'])}" for one in failed
    ]
    return "\n".join(lines).rstrip() + "\n"


def _facts(report: Mapping[str, Any]) -> list[str]:
    bundle, facts = report["bundle"], []
    if bundle["bit_width"] is not None:
        facts.append(f"{bundle['bit_width']}-bit codes")
    if report["engine"] is not None:
        engine = report["engine"]
        facts.append(f"{engine['name']} {engine['version'] or ''}".strip())
        facts += [engine["note"]] if "note" in engine else []
    if report["host"] is not None:
        facts.append(str(report["host"]["machine"]))
    if report["images_total"]:
        facts.append(f"{report['images_used']} of {report['images_total']} images")
    if report["clean"] is not None:
        facts.append(f"clean accuracy {report['clean']['here']['value']:.2%}")
    facts.append(bundle["authentication"])
    return [" · ".join(in_markdown(fact) for fact in facts), ""]


def _gates(checks: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        columns=("gate", "outcome", "threshold", "observed", "97.5% bounds", "n"),
        rows=[
            [
                *(check["name"], check["outcome"]),
                f"{check['threshold']:.2%}",
                "" if check["observed"] is None else f"{check['observed']:.2%}",
                "" if check["bounds"] is None else _range(check["bounds"]),
                f"{check['n']}",
            ]
            for check in checks
        ],
    )


def _patches(patches: Sequence[Mapping[str, Any]], mark: str) -> Table:
    return Table(
        columns=("patch", "ASR, 95% interval", "in the lab", "noise", "n", "flips to the lab"),
        rows=[
            [
                patch["name"] + ("" if patch["gated"] else " (not gated)"),
                *(_asr(patch["asr"], mark), _asr(patch["lab_asr"], mark)),
                _asr(patch["random_floor"]),
                "" if patch["asr"] is None else f"{patch['asr']['n']}",
                f"{patch['flips_n']}",
            ]
            for patch in patches
        ],
    )


def _asr(record: Mapping[str, Any] | None, mark: str = "") -> str:
    if record is None:
        return ""
    return f"{record['value']:.2%}{mark} {_range((record['low'], record['high']))}"


def _range(ends: Sequence[float]) -> str:
    return f"[{ends[0]:.2%}, {ends[1]:.2%}]"
