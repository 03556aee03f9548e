"""Gradient alignment between bit-widths: a map of cosines, and the other measures as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.measure.analyses.means import Mean
from eval.report.analysis_table import mean_words
from eval.report.html import Html, join, tag
from eval.report.numbers import MISSING
from eval.report.rows import bits_label
from eval.report.scrolled_table import scrolled_table

_PLACES = (
    ("patched", "inside", "with the patch, inside it"),
    ("patched", "outside", "with the patch, outside it"),
    ("clean", "image", "without the patch, whole image"),
)


def gradient_views(payload: Mapping[str, Any], name: str) -> Html:
    """The views of one gradient-alignment payload; ``name`` is the network's."""
    pairs: Sequence[Mapping[str, Any]] = payload["pairs"]
    if not pairs:
        return tag("p", f"{name}: one bit-width alone has nothing to be aligned with.")
    maps = [
        _cosines(
            [p for p in pairs if (p["on"], p["region"]) == (on, region)],
            f"{name}: cosine of the input gradients of two bit-widths, {words}",
        )
        for on, region, words in _PLACES
    ]
    return join(tag("div", maps, class_="charts"), _measures(pairs, name))


def _cosines(pairs: Sequence[Mapping[str, Any]], caption: str) -> Html:
    rows = list(dict.fromkeys(p["bit_widths"][0] for p in pairs))
    columns = list(dict.fromkeys(p["bit_widths"][1] for p in pairs))
    found = {tuple(p["bit_widths"]): p["measures"]["cosine"] for p in pairs}
    head = tag("tr", tag("td"), [tag("th", bits_label(bits), scope="col") for bits in columns])
    body = [
        tag(
            "tr",
            tag("th", bits_label(wide), scope="row"),
            [_cosine(found.get((wide, narrow))) for narrow in columns],
        )
        for wide in rows
    ]
    return scrolled_table(head, body, about=caption, caption=caption, kind="heat")


def _cosine(mean: Mean | None) -> Html:
    if mean is None:
        return tag("td")
    words, bounds = mean_words(mean).split(" ", 1)
    return tag(
        "td",
        tag("strong", words),
        tag("small", f"{bounds} n {mean['n']}"),
        style=f"--share:{100 * max(0.0, mean['value']):.1f}%",
    )


def _measures(pairs: Sequence[Mapping[str, Any]], name: str) -> Html:
    """Every measure against the widest bit-width."""
    widest = max(p["bit_widths"][0] for p in pairs)
    caption = f"{name}: each bit-width against {bits_label(widest)}, means over images (95%)"
    largest = max((p["measures"]["mse"]["value"] for p in pairs if p["measures"]["mse"]), default=0)
    power = math.floor(math.log10(largest)) if largest > 0.0 else 0
    unit = f"MSE / 10{str(power).translate(_SUPERSCRIPT)}"
    titles = ("cosine", "relative MSE", unit, "edge IoU", "HOG cosine")
    head = tag("tr", [tag("th", text, scope="col") for text in ("where", "bits", *titles)])
    body = []
    for on, region, words in _PLACES:
        for place, pair in enumerate(
            p for p in pairs if (p["on"], p["region"], p["bit_widths"][0]) == (on, region, widest)
        ):
            body.append(
                tag(
                    "tr",
                    tag("th", words, scope="row"),
                    tag("td", bits_label(pair["bit_widths"][1])),
                    [_measure(pair, key, power) for key in _KEYS],
                    class_="first" if place == 0 else None,
                )
            )
    return scrolled_table(head, body, about=caption, caption=caption)


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_KEYS = ("cosine", "relative_mse", "mse", "edge_iou", "hog_cosine")


def _measure(pair: Mapping[str, Any], key: str, power: int) -> Html:
    mean, chance = pair["measures"][key], pair["chance"].get(key)
    if mean is None:
        return tag("td", MISSING)
    if key == "mse":
        scaled = (mean[which] / 10.0**power for which in ("value", "low", "high"))
        return tag("td", "{:.2f} ({:.2f}–{:.2f})".format(*scaled))
    unrelated = f"unrelated images {mean_words(chance).split(' ')[0]}" if chance else ""
    fewer = f"n {mean['n']}" if mean["n"] != pair["measures"]["cosine"]["n"] else ""
    return tag(
        "td",
        mean_words(mean),
        [tag("small", words) for words in (unrelated, fewer) if words],
    )
