"""A drift attribution as lines of text, and as one HTML page with the images that flipped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploy.core.attack_checks import LOWER_BOUND, AttackVerdict
from deploy.core.html import Html, join, tag
from deploy.core.table import Table
from eval.measure.drift.bundle_drift import BundleDrift
from eval.measure.drift.chain import pasted
from eval.measure.drift.drift_record import DriftRecord, Flip, StepFacts
from eval.measure.examples import png_bytes
from eval.report.document import Section, document, soft
from eval.report.pictures import image_tag
from eval.report.words import MISSING, percent, points, rate

_NAMED = 8
"""Flips that a step lists on the terminal."""

SHOWN = 24
"""Images, at most, that a step shows on the page."""


_CHANGED = (
    "note: {} predictions of the network differ here from those recorded when the bundle was "
    "made, because of another machine or another torch"
)


def drift_table(record: DriftRecord, attacks: AttackVerdict) -> str:
    """The steps of one patch, and the images that they flipped; ``attacks``: on this network."""
    model = record["model"]
    steps: list[StepFacts | None] = [None, *record["steps"]]
    rows = [
        [
            stage["name"],
            percent(stage["clean_accuracy"]["value"]),
            rate(stage["asr"], attacks.mark),
            *_changes(step),
        ]
        for stage, step in zip(record["stages"], steps, strict=True)
    ]
    rows.append(["drift", "", "", points(record["drift_points"]), "percentage points", *[""] * 4])
    changed = record["lab_changed"]
    return Table(
        title=f"{record['patch']['name']}: {model['network']}, {model['defense']}, "
        f"{model['bit_width']} bits, {record['images']['n']} images",
        columns=(
            *("stage", "clean", "ASR (95%)", "change", "paired (95%)", "p"),
            *("flips: clean", "patched", "inputs"),
        ),
        rows=rows,
        align="lrlrlr",
        notes=[
            *(n for step in record["steps"] for n in _flips(step, record["images"]["classes"])),
            *([_CHANGED.format(changed)] if changed else []),
            verdict(record),
            f"attack checks: {attacks.words}",
            *([LOWER_BOUND] if attacks.tripped else []),
        ],
    ).text()


def _changes(step: StepFacts | None) -> list[str]:
    if step is None:
        return [""] * 6
    pair, inputs = step["paired"], step["inputs_changed"]
    shown = [MISSING, MISSING]
    if pair is not None:
        low, high = points(pair["low_points"]), points(pair["high_points"])
        shown = [f"{points(pair['points'])} ({low}…{high})", f"{pair['p_holm']:.2g}"]
    flips = (str(step["clean_flips_n"]), str(step["patched_flips_n"]))
    return [points(step["asr_points"]), *shown, *flips, MISSING if inputs is None else str(inputs)]


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
        return "not stated" if number is None else classes[number]

    parts = [f"image {flip['index']} ({name(flip['label'])})"]
    for kind, flipped, before, after in (
        ("clean", flip["clean_flipped"], flip["clean_before"], flip["clean_after"]),
        ("patched", flip["patched_flipped"], flip["patched_before"], flip["patched_after"]),
    ):
        if flipped and after is None:
            parts.append(f"{kind} right either before or after it")
        elif flipped:
            parts.append(f"{kind} {name(before)} → {name(after)}")
    if flip["won_before"] != flip["won_after"]:
        parts.append(f"patch: {_won(flip['won_before'])} → {_won(flip['won_after'])}")
    return ", ".join(parts)


def _won(won: bool | None) -> str:
    return "does not count" if won is None else "wins" if won else "fails"


def _flips(step: StepFacts, classes: Sequence[str]) -> list[str]:
    lines = [f"{step['name']}: {flip_words(flip, classes)}" for flip in step["flips"][:_NAMED]]
    if step["flips_n"] > _NAMED:
        lines.append(f"{step['name']}: {step['flips_n'] - _NAMED} more in the record")
    return lines


_INTRODUCTION = (
    "Where the attack success rate moved between the lab's fake-quantized network and the "
    "engine. Two neighbouring stages differ in one thing only, and the changes sum to the drift."
)


def drift_page(drift: BundleDrift) -> str:
    """The page as text; no other file, no network and no script are needed."""
    title = f"Drift of {drift.found[0]['model']['bundle']}"
    sections = [_section(drift, *one) for one in enumerate(drift.found)]
    return document(title, _INTRODUCTION, sections)


def _section(drift: BundleDrift, number: int, record: DriftRecord) -> Section:
    classes = record["images"]["classes"]
    body = join(
        tag("pre", drift_table(record, drift.attacks)),
        tag("ul", [tag("li", f"{s['name']}: {s['how']}") for s in record["stages"]]),
        [_figures(drift, number, step, classes) for step in record["steps"] if step["flips"]],
    )
    return Section(key=f"patch-{number}", title=record["patch"]["name"], body=body)


def _figures(drift: BundleDrift, number: int, step: StepFacts, classes: Sequence[str]) -> Html:
    patch = drift.suite.patches[number]
    by_lab = pasted(drift.suite, number)
    fed = None if drift.device_inputs is None else drift.device_inputs.patched[number]
    entry = {int(index): i for i, index in enumerate(patch.patch_set.image_indices)}
    figures = []
    for flip in step["flips"][:SHOWN]:
        row = entry[flip["index"]]
        images = [
            ("clean", drift.suite.images[patch.rows[row]]),
            ("patched", by_lab[row]),
        ]
        if fed is not None and not np.array_equal(fed[row], by_lab[row]):
            images.append(("as the device fed it", fed[row]))
        figures.append(
            tag(
                "figure",
                [image_tag(png_bytes(i), f"Image {flip['index']}, {what}") for what, i in images],
                tag("figcaption", flip_words(flip, classes)),
            )
        )
    more = step["flips_n"] - len(figures)
    return tag(
        "div",
        tag("h3", f"Flipped by {step['name']}"),
        tag("div", figures, class_="gallery"),
        soft(f"{more} more in the record.") if more else "",
    )
