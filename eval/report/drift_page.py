"""A drift attribution as one HTML page, with the images that flipped."""

from __future__ import annotations

import numpy as np

from eval.measure.drift.bundle_drift import Attribution, BundleDrift
from eval.measure.drift.chain import pasted
from eval.measure.drift.drift_record import DriftRecord, StepFacts
from eval.report.document import document
from eval.report.drift_table import drift_table, flip_words
from eval.report.html import Html, tag
from eval.report.pictures import image_tag, png_bytes

SHOWN = 24
"""Images, at most, that a step shows."""


def drift_page(drift: BundleDrift) -> str:
    """The page as text; no other file, no network and no script are needed."""
    first = drift.found[0].record
    title = f"Drift of {first['model']['bundle']}"
    return document(
        title,
        tag(
            "header",
            tag("h1", title),
            tag("p", _INTRODUCTION, class_="soft"),
            class_="page",
        ),
        tag("main", [_section(drift, one) for one in drift.found]),
    )


_INTRODUCTION = (
    "Where the attack success rate moved between the lab's fake-quantized network and the engine. "
    "Two neighbouring stages differ in one thing alone, and the changes sum to the drift."
)


def _section(drift: BundleDrift, one: Attribution) -> Html:
    record = one.record
    key = f"patch-{one.number}"
    stages = tag("ul", [tag("li", f"{s['name']}: {s['how']}") for s in record["stages"]])
    return tag(
        "section",
        tag("h2", record["patch"]["name"], id=f"{key}-title"),
        tag("pre", drift_table(record, drift.attacks)),
        stages,
        [_figures(drift, one, step) for step in record["steps"] if step["flips"]],
        id=key,
        aria_labelledby=f"{key}-title",
    )


def _figures(drift: BundleDrift, one: Attribution, step: StepFacts) -> Html:
    record: DriftRecord = one.record
    patch = drift.suite.patches[one.number]
    by_lab = pasted(drift.suite, one.number)
    fed = None if drift.device_inputs is None else drift.device_inputs.patched[one.number]
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
        words = flip_words(flip, record["images"]["classes"])
        figures.append(
            tag(
                "figure",
                [image_tag(png_bytes(i), f"Image {flip['index']}, {what}") for what, i in images],
                tag("figcaption", words),
            )
        )
    more = step["flips_n"] - len(figures)
    return tag(
        "div",
        tag("h3", f"Flipped by {step['name']}"),
        tag("div", figures, class_="gallery"),
        tag("p", f"{more} more in the record.", class_="soft") if more else "",
    )
