"""The report of a validation as a short Markdown text, for the summary page of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.attack_checks import LOWER_BOUND, AttackVerdict
from ..core.text import one_line


def markdown_text(report: Mapping[str, Any]) -> str:
    """Return the verdict, the gates, the patches and what they were measured on.

    Names come from the bundle: they are escaped, so that none can write into the page.
    """
    bundle = report["bundle"]
    lines = [
        f"## {report['outcome'].upper()}: {_safe(bundle['name'] or bundle['file'])}",
        "",
        f"Exit code {report['exit_code']}: {_safe(report['reason'])}",
        "",
        *_facts(report),
    ]
    if report["checks"]:
        lines += _table(
            ("gate", "outcome", "threshold", "observed", "97.5% bounds", "n"),
            [
                (
                    check["name"],
                    check["outcome"],
                    f"{check['threshold']:.2%}",
                    f"{check['observed']:.2%}",
                    "" if check["bounds"] is None else _range(check["bounds"]),
                    f"{check['n']}",
                )
                for check in report["checks"]
            ],
        )
    verdict = AttackVerdict.of(report.get("attack_checks"))
    if report["patches"]:
        lines += _table(
            ("patch", "ASR, 95% interval", "in the lab", "noise", "n", "flips to the lab"),
            [
                (
                    patch["name"] + ("" if patch["gated"] else " (not gated)"),
                    _asr(patch["asr"], verdict.mark),
                    _asr(patch["lab_asr"], verdict.mark),
                    _asr(patch["random_floor"]),
                    "" if patch["asr"] is None else f"{patch['asr']['n']}",
                    f"{patch['flips_n']}",
                )
                for patch in report["patches"]
            ],
        )
        lines += [f"The lab's checks of its attacks on this model: {_safe(verdict.words)}."]
        lines += [*([LOWER_BOUND] if verdict.tripped else []), ""]
    search = report.get("search")
    if search is not None:
        how = f"{search['queries']} queries an image, {search['size_px']} px"
        what = f"Search on the device ({search['attack']}, {how}, by {search['answers']})"
        lines += [
            f"{what}: ASR {_asr(search['asr'], verdict.mark)} of {search['asr']['n']} images.",
            "",
        ]
    failed = [step for step in report["steps"] if not step["ok"]]
    lines += [f"- step *{_safe(one['name'])}* failed: {_safe(one['error'])}" for one in failed]
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
    return [" · ".join(_safe(fact) for fact in facts), ""]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    written = [head, ("---",) * len(head), *(tuple(_safe(cell) for cell in row) for row in rows)]
    return [*(f"| {' | '.join(row)} |" for row in written), ""]


def _asr(record: Mapping[str, Any] | None, mark: str = "") -> str:
    if record is None:
        return ""
    return f"{record['value']:.2%}{mark} {_range((record['low'], record['high']))}"


def _range(ends: Sequence[float]) -> str:
    return f"[{ends[0]:.2%}, {ends[1]:.2%}]"


def _safe(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{one}" if one in "\\`*_[]|#~!" else one for one in plain)
