"""What an attacker who knows each network achieves, as a table for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.bit_widths import bits_label
from deploy.core.errors import NothingToEvaluate
from deploy.core.html import Html
from deploy.core.share import Share
from deploy.core.table import Table
from eval.measure.adaptive.adaptive_record import AdaptiveRecord, adaptive_from_records
from eval.measure.checks.checks_record import AttackChecks, attack_checks_from_records, verdict
from eval.report.attacks import adaptive_asr, adaptive_attacks
from eval.report.misfits import refuses_misfits
from eval.report.names import Names, names_from_records
from eval.report.words import MISSING, images_words, model_order, percent, rate

_LAWS = ("fixed", "worst", "random")
_WORST = (
    "worst of …: for each image the bit-width at which the attack wins, over the images right at "
    "every bit-width."
)


@refuses_misfits
def adaptive_table(records: Iterable[Mapping[str, Any]]) -> str:
    """The adaptive evaluation of each network, bit-width and seed as text; of several with other
    settings the one that wins most.

    Raises:
        NothingToEvaluate: there is no adaptive evaluation.
    """
    table = _table(list(records))
    if not table.rows:
        raise NothingToEvaluate(
            "no adaptive evaluation found; run `qadtr eval RUN --adaptive` first"
        )
    return table.text()


def adaptive_section(records: Sequence[Mapping[str, Any]]) -> Html:
    """The same as a table of the page; nothing where there is no adaptive evaluation."""
    table = _table(records)
    if not table.rows:
        return Html("")
    return table.html(about="What an attacker who knows each network achieves")


def _table(records: Sequence[Mapping[str, Any]]) -> Table:
    checks, names = attack_checks_from_records(records), names_from_records(records)
    found = adaptive_from_records(records)
    worst: dict[tuple[object, ...], AdaptiveRecord] = {}
    for record in adaptive_attacks(found):
        model, patch = record["model"], record["patch"]
        key = (
            *(model["checkpoint_sha256"], record["law"], *model["bit_widths"], record["seed"]),
            *(patch["size_px"], patch["placement"], record["images"]["digest"]),
        )
        worst[key] = max(worst.get(key, record), record, key=lambda one: adaptive_asr(one)["value"])
    patches = dict.fromkeys(
        f"{r['patch']['size_px']}×{r['patch']['size_px']} px, {percent(r['patch']['area_share'])}"
        f" of the image, placed {r['patch']['placement']}, per image; "
        f"{images_words(r['images'], r['outcomes']['n'])}"
        for r in found
    )
    return Table(
        columns=(
            *("network", "bits", "clean", "ASR, fake-quantized (95%), n", "ASR, engine (95%), n"),
            *("strongest single stage", "attack checks"),
        ),
        rows=[_row(record, checks, names) for record in sorted(worst.values(), key=_order)],
        notes=[
            *patches,
            *names.lines(),
            _WORST,
            "random of …: a bit-width is drawn for each answer; the attack uses K draws a step.",
            LOWER_BOUND,
        ],
    )


def _order(record: AdaptiveRecord) -> tuple[object, ...]:
    model = record["model"]
    return (
        *model_order(model),
        *(_LAWS.index(record["law"]), -max(model["bit_widths"])),
    )


def _row(record: AdaptiveRecord, checks: AttackChecks, names: Names) -> list[str]:
    model, law, engine = record["model"], record["law"], record["on_engine"]
    widths = model["bit_widths"]
    bits = ", ".join(map(bits_label, widths))
    mark = checks.mark_at(model["checkpoint_sha256"], *widths)
    return [
        names.of(model),
        bits if law == "fixed" else f"{law} of {bits}",
        percent(record["clean_accuracy"]["value"]),
        _counted(record["asr"], mark),
        MISSING if engine is None else _counted(engine["asr"], mark),
        _strongest(record),
        _verdict(checks, model["checkpoint_sha256"], widths),
    ]


def _counted(share: Share, mark: str) -> str:
    return f"{rate(share, mark)}, {share['n']}"


def _strongest(record: AdaptiveRecord) -> str:
    if record["draws"]:
        moving = "" if record["draws_enough"] else " (still moving)"
        return f"K = {record['draws'][-1]['draws']}{moving}"
    stage = max(record["stages"], key=lambda s: s["won"], default=None)
    return MISSING if stage is None else f"{stage['stage']}: {stage['won']} of {stage['attacked']}"


def _verdict(checks: AttackChecks, checkpoint: str, widths: Sequence[int]) -> str:
    """For one bit-width the verdict of its checks; for several, what tripped at any of them."""
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
