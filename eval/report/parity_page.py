"""Parity as one HTML page: engine, integer reference and fake quantization, layer by layer.

Like the report it needs no network, no script and no other file, and follows the reader's choice of
light or dark.  Bars are on a logarithmic scale, since shares of one in a million and of one in a
hundred stand side by side; the table beside them has every number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from deploy.core.html import Html, tag
from deploy.core.table import Cell, Table
from eval.report.document import Section, document, facts, note, verdict
from eval.report.pictures import drawing, label
from eval.report.words import MISSING
from export.parity_report import LayerParity, Parity

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP, _BOTTOM = 640.0, 22.0, 170.0, 80.0, 8.0, 34.0
_DECADES = 7
"""The scale runs from 10^-7, less than one code of most layers, to 1."""


def parity_page(name: str, found: Sequence[Parity]) -> str:
    """The page as text.

    Args:
        found: what :func:`export.parity.check_parity` gave, one for each file.
    """
    title = f"Parity of {name}"
    sections = [_section(parity, f"model-{index}") for index, parity in enumerate(found)]
    return document(title, _INTRODUCTION, sections, skip="To the models", links="Models")


_INTRODUCTION = (
    "The engine must equal the integer reference in every code and logit. A flip is a code that "
    "differs between the reference and the fake-quantized network in torch. Flips have a budget; "
    "an exact network has no flips."
)


def _section(parity: Parity, key: str) -> Section:
    return Section(
        key=key,
        title=parity.model,
        verdict=verdict("parity", "good") if parity.ok else verdict("no parity", "bad"),
        body=[*map(note, parity.failures), _facts(parity), _chart(parity), _table(parity)],
    )


def _facts(parity: Parity) -> Html:
    different = sum(layer.different for layer in parity.layers)
    values = sum(layer.values for layer in parity.layers)
    codes = f"{different:,} of {values:,} codes and "
    logits = f"{parity.logits_different:,} of {parity.images * parity.classes:,} logits differ"
    rows = [
        ("Engine", parity.engine),
        ("Images", f"{parity.images:,}"),
        ("Engine against reference", codes + logits),
        ("First departure", parity.first_departure or "none"),
    ]
    if parity.fake_logits_different is not None:
        largest = parity.largest_fake_logit_difference or 0.0
        words = f"{parity.fake_logits_different:,}, by at most {largest:.6g}"
        rows.append(("First flip", parity.first_flip or "none"))
        rows.append(("Logits that differ from fake quantization", words))
    if parity.flips is not None:
        rows.append(("Predictions that flip", f"{len(parity.flips):,} of {parity.images:,}"))
    budget = parity.budget
    if budget is not None:
        shares = f"{budget.code_flips:.2%} of a layer's codes, {budget.flips:.2%} of"
        equal = ", equal logits" if budget.logits == 0.0 else ""
        rows.append(("Budget", f"{shares} the predictions{equal}"))
    rows.append(("SHA-256 of the file", parity.model_sha256))
    return facts(rows)


def _compared(parity: Parity) -> list[LayerParity]:
    return [layer for layer in parity.layers if layer.flips is not None or layer.different]


def _along(share: float) -> float:
    """Pixels of a bar for a share; nothing below the scale's first decade."""
    if share <= 0.0:
        return 0.0
    part = 1.0 + math.log10(share) / _DECADES
    return max(0.0, part) * (_WIDTH - _LEFT - _RIGHT)


def _chart(parity: Parity) -> Html:
    layers = _compared(parity)
    if not layers:
        return Html("")
    height = _TOP + _ROW * len(layers) + _BOTTOM
    bottom = height - _BOTTOM
    parts: list[Html] = []
    for decade in range(_DECADES + 1):
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * decade / _DECADES
        parts.append(tag("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="grid"))
        words = {0: "100%", -1: "10%", -2: "1%", -4: "0.01%", -6: "0.0001%"}
        if decade - _DECADES in words:
            parts.append(label(words[decade - _DECADES], x, bottom + 18, "middle"))
    for index, layer in enumerate(layers):
        y = _TOP + _ROW * index
        flips, departs = layer.flip_share, layer.different / layer.values
        end = _LEFT + max(_along(flips), _along(departs)) + 6
        parts += [
            label(layer.tensor, _LEFT - 8, y + 15, "end", None),
            _bar(flips, y + 3.0, "--series-0"),
            _bar(departs, y + 11.0, "--bad"),
            label(f"{flips:.4%}" if layer.flips else "0", end, y + 15, "start"),
        ]
    described = ", ".join(f"{layer.tensor} {layer.flip_share:.4%}" for layer in layers)
    about = f"Flips by layer, {parity.model}"
    caption = (
        "Share of each layer's codes: flips against fake quantization (upper bar), departures of "
        "the engine from the reference (lower bar, if there are any); logarithmic scale"
    )
    svg = drawing(about, described, parts, width=_WIDTH, height=height)
    return tag("figure", tag("figcaption", caption), svg)


def _bar(share: float, y: float, colour: str) -> Html:
    style = f"fill: var({colour})"
    return tag("rect", x=_LEFT, y=y, width=_along(share), height=8.0, style=style)


def _table(parity: Parity) -> Html:
    return Table(
        title="Every tensor of codes, in the file's order; – means not compared",
        columns=(
            *("Layer", "Operator", "Codes", "Engine ≠ reference", "Largest"),
            *("Reference ≠ fake", "Share", "Largest"),
        ),
        rows=[
            [
                _marked(parity, layer),
                layer.operator,
                f"{layer.values:,}",
                f"{layer.different:,}",
                str(layer.largest_difference),
                *(
                    [MISSING] * 3
                    if layer.flips is None
                    else [f"{layer.flips:,}", f"{layer.flip_share:.4%}", str(layer.largest_flip)]
                ),
            ]
            for layer in parity.layers
        ],
        align="llr",
    ).html(about=f"Layers of {parity.model}")


def _marked(parity: Parity, layer: LayerParity) -> Cell:
    named = (layer.tensor, layer.name)
    departs = verdict("departs first", "bad") if parity.first_departure in named else ""
    flips = verdict("flips first", "warn") if parity.first_flip in named else ""
    return Cell(layer.tensor, html=[layer.tensor, " ", departs, flips])
