"""Accuracy against bit-width under pixel attacks: a table for the terminal, charts for the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND, MARK
from deploy.core.bit_widths import bits_words
from deploy.core.html import Html, tag
from deploy.core.table import Table
from eval.measure.checks.checks_record import AttackChecks, attack_checks_from_records
from eval.measure.pixel_record import PixelRecord, pixels_from_records
from eval.report.line_chart import Point, baseline, bit_width_axis, drawn_series, line_chart
from eval.report.names import Names, names_from_records
from eval.report.words import images_words, percent, rate

_ATTACK_NAMES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "mi-fgsm": "MI-FGSM",
    "cw": "C&W",
    "autoattack-deepfool": "AutoAttack, DeepFool for FAB",
}

_UPPER_BOUND = (
    f"{MARK}: a check of the attack tripped, so the accuracy is an upper bound on the accuracy "
    "under attack."
)


_COLUMNS = ("attack", "made at", "bits", "engine", "n", "clean", "attacked (95%)", "ASR (95%)")


def pixel_table(records: Sequence[PixelRecord], checks: AttackChecks) -> str:
    """The records as lines of text: accuracy against bit-width, clean and attacked.

    A rate of a network whose attack checks tripped at the bit-width that the attack followed, or at
    the one that was attacked, is marked.
    """
    marks = [
        checks.mark_at(m["checkpoint_sha256"], m["bit_width"], record["made_at_bit_width"])
        for record in records
        for m in [record["model"]]
    ]
    return Table(
        columns=_COLUMNS,
        rows=[
            [
                record["attack"],
                str(record["made_at_bit_width"]),
                str(record["model"]["bit_width"]),
                record["model"]["engine"],
                str(record["attacked"]),
                percent(record["clean_accuracy"]["value"]),
                *(rate(record[key], mark) for key in ("robust_accuracy", "asr")),
            ]
            for record, mark in zip(records, marks, strict=True)
        ],
        align="lrrlrrl",
        notes=[LOWER_BOUND] if any(marks) else (),
    ).text()


def pixel_curves(records: Iterable[Mapping[str, Any]]) -> Html:
    """The charts; nothing where no network was attacked at two bit-widths.

    Raises:
        InputError: a record is not as the schema says.
    """
    records = list(records)
    checks, names = attack_checks_from_records(records), names_from_records(records)
    groups: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for payload in pixels_from_records(records):
        model, images = payload["model"], payload["images"]
        group = (
            *(model["network"], model["defense"], model["checkpoint_sha256"], model["engine"]),
            *(images["digest"], payload["attacked"]),
        )
        groups.setdefault(group, []).append(payload)
    made = (_chart(found, checks, names) for found in groups.values())
    charts = [chart for chart in made if chart is not None]
    return tag("div", charts, class_="charts") if charts else Html("")


def _chart(found: Sequence[Mapping[str, Any]], checks: AttackChecks, names: Names) -> Html | None:
    clean = {payload["model"]["bit_width"]: payload["clean_accuracy"] for payload in found}
    if len(clean) < 2:
        return None
    model, images = found[-1]["model"], found[-1]["images"]
    name = names.of(model)
    lines = _lines(found, checks)
    marked = any(point.mark for points in lines.values() for point in points)
    return line_chart(
        f"{name} on {model['engine']}: accuracy under pixel attacks",
        f"{images_words(images, found[-1]['attacked'])}, untargeted, by {found[-1]['library']}",
        bit_width_axis(clean),
        [
            *(drawn_series(i, *line) for i, line in enumerate(lines.items())),
            baseline("without an attack", [Point(x=b, share=clean[b]) for b in sorted(clean)]),
        ],
        about=f"{name}: accuracy against bit-width under pixel attacks",
        note=_UPPER_BOUND if marked else "",
    )


def _lines(found: Sequence[Mapping[str, Any]], checks: AttackChecks) -> dict[str, list[Point]]:
    """A line for each attack at each bit-width's own gradient, and for each that follows one."""
    lines: dict[str, dict[int, Point]] = {}
    for payload in found:
        bits, made_at = payload["model"]["bit_width"], payload["made_at_bit_width"]
        radius = "L2" if payload["epsilon"] is None else f"L∞ {payload['epsilon']:g}/255"
        attack = f"{_ATTACK_NAMES.get(payload['attack'], payload['attack'])}, {radius}"
        own = f"{attack}, own gradient of each bit-width"
        other = f"{attack}, gradient of {bits_words(made_at)}"
        mark = checks.mark_at(payload["model"]["checkpoint_sha256"], bits, made_at)
        point = Point(x=bits, share=payload["robust_accuracy"], mark=mark)
        lines.setdefault(own if bits == made_at else other, {})[bits] = point
    return {name: [at[bits] for bits in sorted(at)] for name, at in sorted(lines.items())}
