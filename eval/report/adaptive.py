"""What an attacker who knows each network achieves, as a table for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.errors import NothingToEvaluate
from eval.measure.adaptive.adaptive_record import AdaptiveRecord, adaptive_from_records
from eval.measure.checks.checks_record import AttackChecks, attack_checks_from_records, verdict
from eval.report.html import Html, join, tag
from eval.report.numbers import MISSING, interval, percent
from eval.report.rows import bits_label, model_name
from eval.report.scrolled_table import scrolled_table

HEADER = (
    "network",
    "bits",
    "clean",
    "ASR, fake-quantized (95%), n",
    "ASR, engine (95%), n",
    "strongest single stage",
    "attack checks",
)


def adaptive_rows(records: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """One row for each adaptive evaluation, in the words of :data:`HEADER`; the newest of each."""
    records = list(records)
    checks = attack_checks_from_records(records)
    newest: dict[tuple[object, ...], AdaptiveRecord] = {}
    for record in adaptive_from_records(records):
        model, patch = record["model"], record["patch"]
        key = (
            *(model["checkpoint_sha256"], record["law"], *model["bit_widths"], record["seed"]),
            *(patch["size_px"], patch["placement"], record["images"]["digest"]),
        )
        newest[key] = record
    laws = ("fixed", "worst", "random")
    ordered = sorted(
        newest.values(),
        key=lambda r: (
            *(r["model"]["network"], r["model"]["defense"] == "qadtr", r["model"]["defense"]),
            *(laws.index(r["law"]), -max(r["model"]["bit_widths"])),
        ),
    )
    return [_row(record, checks) for record in ordered]


def adaptive_table(records: Iterable[Mapping[str, Any]]) -> str:
    """The rows as text.

    Raises:
        NothingToEvaluate: there is no adaptive evaluation.
    """
    records = list(records)
    rows = adaptive_rows(records)
    if not rows:
        raise NothingToEvaluate(
            "There is no adaptive evaluation; run `qadtr eval RUN --adaptive` first."
        )
    widths = [max(len(row[i]) for row in [list(HEADER), *rows]) for i in range(len(HEADER))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [list(HEADER), *rows]
    ]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:], "", *explained(records)])


def explained(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the table's words mean, in lines."""
    found = adaptive_from_records(records)
    patches = dict.fromkeys(
        f"{r['patch']['size_px']}×{r['patch']['size_px']} px, {100 * r['patch']['area_share']:.1f}%"
        f" of the image, placed {r['patch']['placement']}, per image; {r['images']['name']}, "
        f"{r['images']['split']} split, {r['outcomes']['n']} images"
        for r in found
    )
    return [
        *patches,
        "worst of …: per image the bit-width at which the attack wins, of the images right at all.",
        "random of …: a bit-width drawn for each answer; K draws a step in the attack.",
        LOWER_BOUND,
    ]


def adaptive_section(records: Iterable[Mapping[str, Any]]) -> Html:
    """The same as a table of the page; nothing where there is no adaptive evaluation."""
    records = list(records)
    rows = adaptive_rows(records)
    if not rows:
        return Html("")
    head = tag("tr", [tag("th", words, scope="col") for words in HEADER])
    body = [
        tag("tr", tag("th", row[0], scope="row"), [tag("td", cell) for cell in row[1:]])
        for row in rows
    ]
    return join(
        scrolled_table(head, body, about="What an attacker who knows each network achieves"),
        [tag("p", line, class_="soft small") for line in explained(records)],
    )


def _row(record: AdaptiveRecord, checks: AttackChecks) -> list[str]:
    model = record["model"]
    widths = model["bit_widths"]
    law = record["law"]
    bits = bits_label(widths[0])
    if law != "fixed":
        bits = f"{law} of {', '.join(map(bits_label, widths))}"
    mark = checks.mark_at(model["checkpoint_sha256"], *widths)
    asr, engine = record["asr"], record["on_engine"]
    stage = max(record["stages"], key=lambda s: s["won"], default=None)
    strongest = (
        MISSING if stage is None else f"{stage['stage']}: {stage['won']} of {stage['attacked']}"
    )
    if record["draws"]:
        strongest = f"K = {record['draws'][-1]['draws']}" + (
            "" if record["draws_enough"] else " (still moving)"
        )
    return [
        model_name(model["network"], model["defense"]),
        bits,
        percent(record["clean_accuracy"]["value"]),
        f"{percent(asr['value'])}{mark} ({interval(asr)}), {asr['n']}",
        MISSING
        if engine is None
        else f"{percent(engine['asr']['value'])}{mark} ({interval(engine['asr'])}), "
        f"{engine['asr']['n']}",
        strongest,
        _verdict(checks, model["checkpoint_sha256"], widths),
    ]


def _verdict(checks: AttackChecks, checkpoint: str, widths: Sequence[int]) -> str:
    """Of one bit-width all that its checks say; of several what tripped at any of them."""
    found = {bits: checks.by_model.get((checkpoint, bits)) for bits in widths}
    if len(widths) == 1:
        (only,) = found.values()
        return "not checked" if only is None else verdict(only)
    tripped = checks.tripped_at(checkpoint, *widths)
    parts = [f"TRIPPED: {', '.join(tripped)}"] if tripped else []
    unchecked = [bits_label(bits) for bits, record in found.items() if record is None]
    if unchecked:
        parts.append(f"not checked: {', '.join(unchecked)}")
    return "; ".join(parts) or "none tripped"
