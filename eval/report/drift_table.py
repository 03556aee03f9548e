"""A drift attribution as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.core.attack_checks import LOWER_BOUND, AttackVerdict
from eval.measure.drift.drift_record import DriftRecord, Flip, StageFacts, StepFacts
from eval.report.numbers import MISSING, interval, percent, points

_NAMED = 8
"""Flips that a step lists on the terminal."""


def drift_table(record: DriftRecord, attacks: AttackVerdict) -> str:
    """The steps of one patch, and the images that they flipped; ``attacks``: on this network."""
    first, *rest = record["stages"]
    model = record["model"]
    title = (
        f"{record['patch']['name']}: {model['network']}, {model['defense']}, "
        f"{model['bit_width']} bits, {record['images']['n']} images"
    )
    header = (
        f"{'stage':<14} {'clean':>6}  {'ASR (95%)':<20} {'change':>7}  "
        f"{'paired (95%)':<22} {'p':>7} {'flips: clean':>12} {'patched':>8} {'inputs':>7}"
    )
    lines = [title, header, _rates(first, attacks.mark)]
    for stage, step in zip(rest, record["steps"], strict=True):
        lines.append(
            f"{_rates(stage, attacks.mark)} {points(step['asr_points']):>7}  "
            f"{_pair(step):<22} {_p(step):>7} {step['clean_flips_n']:>12} "
            f"{step['patched_flips_n']:>8} {_inputs(step):>7}"
        )
    lines.append(f"{'drift':<43} {points(record['drift_points']):>7}  percentage points")
    lines += [
        line for step in record["steps"] for line in _flips(step, record["images"]["classes"])
    ]
    if record["lab_changed"]:
        lines.append(
            f"note: {record['lab_changed']} predictions of the network are other ones here than "
            "when the bundle was made: another machine or another torch"
        )
    lines.append(verdict(record))
    lines.append(f"attack checks: {attacks.words}")
    lines += [LOWER_BOUND] if attacks.tripped else []
    return "\n".join(lines)


def verdict(record: DriftRecord) -> str:
    """One sentence: which steps changed a prediction, and which of them more than by chance."""
    moved = [step for step in record["steps"] if step["flips_n"]]
    if not moved:
        return "no step changed any prediction"
    named = ", ".join(f"{step['name']} ({step['flips_n']})" for step in moved)
    clear = [
        step["name"]
        for step in moved
        if step["paired"] is not None and step["paired"]["p_holm"] < 0.05
    ]
    more = ", ".join(clear) or "none"
    return f"images flipped by: {named}; ASR changed beyond chance (McNemar, Holm, 0.05) by: {more}"


def flip_words(flip: Flip, classes: Sequence[str]) -> str:
    """One flipped image in words."""

    def name(number: int | None) -> str:
        return "not told" if number is None else classes[number]

    parts = [f"image {flip['index']} ({name(flip['label'])})"]
    for kind, flipped, before, after in (
        ("clean", flip["clean_flipped"], flip["clean_before"], flip["clean_after"]),
        ("patched", flip["patched_flipped"], flip["patched_before"], flip["patched_after"]),
    ):
        if flipped and after is None:
            parts.append(f"{kind} right before or after it, not both")
        elif flipped:
            parts.append(f"{kind} {name(before)} → {name(after)}")
    if flip["won_before"] != flip["won_after"]:
        parts.append(f"patch: {_won(flip['won_before'])} → {_won(flip['won_after'])}")
    return ", ".join(parts)


def _won(won: bool | None) -> str:
    return "does not count" if won is None else "wins" if won else "fails"


def _flips(step: StepFacts, classes: Sequence[str]) -> list[str]:
    lines = [f"  {step['name']}: {flip_words(flip, classes)}" for flip in step["flips"][:_NAMED]]
    if step["flips_n"] > _NAMED:
        lines.append(f"  {step['name']}: {step['flips_n'] - _NAMED} more in the record")
    return lines


def _rates(stage: StageFacts, mark: str) -> str:
    asr = stage["asr"]
    rate = f"{percent(asr['value'])}{mark} ({interval(asr)})"
    return f"{stage['name']:<14} {percent(stage['clean_accuracy']['value']):>6}  {rate:<20}"


def _pair(step: StepFacts) -> str:
    pair = step["paired"]
    if pair is None:
        return MISSING
    low, high = points(pair["low_points"]), points(pair["high_points"])
    return f"{points(pair['points'])} ({low}…{high})"


def _p(step: StepFacts) -> str:
    return MISSING if step["paired"] is None else f"{step['paired']['p_holm']:.2g}"


def _inputs(step: StepFacts) -> str:
    return MISSING if step["inputs_changed"] is None else str(step["inputs_changed"])
