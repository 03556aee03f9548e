"""One view of each analysis: places and layers as maps and charts, gradients as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.bit_widths import bits_label, bits_words
from deploy.core.html import Html, join, tag
from deploy.core.share import share
from deploy.core.table import Cell, Table
from eval.measure.analyses.means import Mean
from eval.report.line_chart import Axis, Point, baseline, drawn_series, line_chart
from eval.report.pictures import map_table
from eval.report.place_maps import Place, place_map
from eval.report.words import MISSING, interval, mean, percent, rate

MARKS = "marks"
"""Key under which a payload has what stands beside an ASR, by bit-width."""


def location_views(payload: Mapping[str, Any], name: str) -> Html:
    """One map of the ASR for each bit-width."""
    maps = []
    for at in payload["bits"]:
        n = at["n"]
        places = []
        mark = payload[MARKS][at["bit_width"]]
        for won, noise in zip(at["successes"], at["floor_successes"], strict=True):
            shares = [(share(a, n), share(b, n)) for a, b in zip(won, noise, strict=True)]
            places.append(
                [
                    Place(
                        shade=asr["value"],
                        written=f"{100 * asr['value']:.0f}{mark}",
                        spoken=f"ASR {percent(asr['value'])}{mark} ({interval(asr)}, n = {n}), "
                        f"noise {percent(floor['value'])}",
                    )
                    for asr, floor in shares
                ]
            )
        bits = bits_words(at["bit_width"])
        noisiest = share(max(map(max, at["floor_successes"])), n)
        maps.append(
            place_map(
                f"{name}, {bits}: ASR in % by place",
                f"{n} images; at its own place {rate(at['own_place'], mark)}; mean of all "
                f"places {rate(at['over_places'], mark)}; at one place or more "
                f"{rate(at['somewhere'], mark)}; noise at most "
                f"{percent(noisiest['value'])} at one place, "
                f"{percent(at['floor_somewhere']['value'])} at one or more"
                + (f". {LOWER_BOUND}" if mark else ""),
                tops_px=payload["tops_px"],
                lefts_px=payload["lefts_px"],
                places=places,
                about=f"{name}, {bits}: attack success rate with the patch at each place",
            )
        )
    return tag("div", maps, class_="charts small")


def occlusion_views(payload: Mapping[str, Any], name: str) -> Html:
    """One map of the logit's drop for each bit-width; shades share one scale."""
    largest = max((abs(v) for at in payload["bits"] for row in at["drop"] for v in row), default=0)
    maps = []
    for at in payload["bits"]:
        grids = (at[key] for key in ("drop", "low", "high", "lost"))
        places = [
            [_covered(at["n"], largest, *figures) for figures in zip(*rows, strict=True)]
            for rows in zip(*grids, strict=True)
        ]
        bits = bits_words(at["bit_width"])
        side = payload["settings"]["occluder_px"]
        maps.append(
            place_map(
                f"{name}, {bits}: drop of the right logit",
                f"{at['n']} images; a grey square of {side}×{side} px covers each position in turn",
                tops_px=payload["tops_px"],
                lefts_px=payload["lefts_px"],
                places=places,
                about=f"{name}, {bits}: drop of the right class's logit when a place is covered",
            )
        )
    return tag("div", maps, class_="charts small")


def _covered(n: int, largest: float, drop: float, low: float, high: float, lost: int) -> Place:
    words = mean(Mean(n=n, value=drop, low=low, high=high))
    return Place(
        shade=drop / largest if largest else 0.0,
        written=f"{drop:.1f}".replace("-", "−"),
        spoken=f"drop {words}, {percent(lost / n)} of {n} images lost",
    )


_PLACES = (
    ("patched", "inside", "with the patch, inside it"),
    ("patched", "outside", "with the patch, outside it"),
    ("clean", "image", "without the patch, whole image"),
)


def gradient_views(payload: Mapping[str, Any], name: str) -> Html:
    """The views of one gradient-alignment payload; ``name`` is the network's."""
    pairs: Sequence[Mapping[str, Any]] = payload["pairs"]
    if not pairs:
        return tag("p", f"{name}: alignment needs two bit-widths, and only one was analysed.")
    maps = [
        _cosines(
            [p for p in pairs if (p["on"], p["region"]) == (on, region)],
            f"{name}: cosine of the input gradients of two bit-widths, {words}",
        )
        for on, region, words in _PLACES
    ]
    return join(tag("div", maps, class_="charts"), _measures(pairs, name))


def _cosines(pairs: Sequence[Mapping[str, Any]], title: str) -> Html:
    rows = list(dict.fromkeys(p["bit_widths"][0] for p in pairs))
    columns = list(dict.fromkeys(p["bit_widths"][1] for p in pairs))
    found = {tuple(p["bit_widths"]): p["measures"]["cosine"] for p in pairs}
    return Table(
        title=title,
        columns=["", *map(bits_label, columns)],
        rows=[
            [bits_label(wide), *(_cosine(found.get((wide, narrow))) for narrow in columns)]
            for wide in rows
        ],
    ).html(kind="heat")


def _cosine(found: Mean | None) -> Cell:
    if found is None:
        return Cell("")
    words, bounds = mean(found).split(" ", 1)
    return Cell(
        words,
        html=[tag("strong", words), tag("small", f"{bounds} n {found['n']}")],
        style=f"--share:{100 * max(0.0, found['value']):.1f}%",
    )


def _measures(pairs: Sequence[Mapping[str, Any]], name: str) -> Html:
    """Every measure against the widest bit-width."""
    widest = max(p["bit_widths"][0] for p in pairs)
    largest = max((p["measures"]["mse"]["value"] for p in pairs if p["measures"]["mse"]), default=0)
    power = math.floor(math.log10(largest)) if largest > 0.0 else 0
    unit = f"MSE / 10{str(power).translate(_SUPERSCRIPT)}"
    return Table(
        title=f"{name}: each bit-width against {bits_label(widest)}, means over images (95%)",
        columns=("where", "bits", "cosine", "relative MSE", unit, "edge IoU", "HOG cosine"),
        rows=[
            [
                words,
                bits_label(pair["bit_widths"][1]),
                *(_measure(pair, key, power) for key in _KEYS),
            ]
            for on, region, words in _PLACES
            for pair in pairs
            if (pair["on"], pair["region"], pair["bit_widths"][0]) == (on, region, widest)
        ],
        grouped=True,
    ).html()


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_KEYS = ("cosine", "relative_mse", "mse", "edge_iou", "hog_cosine")


def _measure(pair: Mapping[str, Any], key: str, power: int) -> Cell:
    found, chance = pair["measures"][key], pair["chance"].get(key)
    if found is None:
        return Cell(MISSING)
    if key == "mse":
        scaled = (found[which] / 10.0**power for which in ("value", "low", "high"))
        return Cell("{:.2f} ({:.2f}–{:.2f})".format(*scaled))
    words = mean(found)
    unrelated = f"unrelated images {mean(chance).split(' ')[0]}" if chance else ""
    fewer = f"n {found['n']}" if found["n"] != pair["measures"]["cosine"]["n"] else ""
    return Cell(words, html=[words, *(tag("small", text) for text in (unrelated, fewer) if text)])


def visibility_views(payload: Mapping[str, Any], name: str) -> Html:
    """Charts of the activation share, and the saliency inside the patch."""
    bits = payload["bits"]
    layers = [layer["layer"] for layer in bits[0]["layers"]]
    axis = Axis(
        name="convolution",
        words={i: str(i + 1) for i in range(len(layers))},
        spoken={i: f"{layer} " for i, layer in enumerate(layers)},
    )
    named = ", ".join(f"{i + 1} {layer}" for i, layer in enumerate(layers))
    charts = []
    for key, words in (
        ("under", "under the patch"),
        ("seen", "where the receptive field meets the patch"),
    ):
        lines = [
            drawn_series(
                i, f"{bits_words(at['bit_width'])}, with the patch", _points(at, key, "patched")
            )
            for i, at in enumerate(bits)
        ]
        lines.append(
            baseline(
                f"{bits_words(bits[0]['bit_width'])}, without it", _points(bits[0], key, "clean")
            )
        )
        area = baseline("share of the positions", _points(bits[0], key, "area"), marker="diamond")
        charts.append(
            line_chart(
                f"{name}: activation energy {words}",
                named,
                axis,
                [*lines, area],
                about=f"{name}: share of each layer's activation energy {words}",
            )
        )
    table = Table(
        title=f"{name}: share of the saliency that lies in the patch's place, means over images",
        columns=("bits", "with the patch", "without", "area"),
        rows=[
            [
                bits_label(at["bit_width"]),
                *(rate(at["saliency"][key]) for key in ("patched", "clean", "area")),
            ]
            for at in bits
        ],
    )
    return join(tag("div", charts, class_="charts"), table.html())


def feature_views(payload: Mapping[str, Any], name: str) -> Html:
    """How much the patch changes the first convolutions, and pictures of it."""
    table = Table(
        title=f"{name}: what the patch changes in the first convolutions, means over images (95%)",
        columns=(
            *("convolution", "bits", "change by the patch"),
            *("cosine to the widest, without the patch", "the same with it"),
        ),
        rows=[
            [
                unit["layer"],
                bits_label(unit["bit_width"]),
                *(mean(unit[key]) for key in ("change", "clean_to_widest", "patched_to_widest")),
            ]
            for unit in payload["units"]
        ],
        grouped=True,
    )
    columns = [bits_words(bits) for bits in payload["model"]["bit_widths"]]
    pictures = [_maps(shown, columns, name) for shown in payload["shown"]]
    return join(table.html(), tag("div", pictures, class_="charts"))


def gradient_map_views(payload: Mapping[str, Any], name: str) -> Html:
    """The input gradient at each bit-width, without and with the patch."""
    columns = [bits_words(bits) for bits in payload["model"]["bit_widths"]]
    tables = [
        map_table(
            f"{name}: magnitude of the input gradient, image {shown['index']}, each map scaled "
            "to its own maximum",
            columns,
            [("without the patch", shown["clean"]), ("with the patch", shown["patched"])],
            about=f"{name}: input gradient of image {shown['index']}",
        )
        for shown in payload["shown"]
    ]
    return tag("div", tables, class_="charts")


def _maps(shown: Mapping[str, Any], columns: Sequence[str], name: str) -> Html:
    where = f"{shown['layer']}, image {shown['index']}"
    rows = [
        (f"{what}, {words}", shown[kind][key])
        for kind, what in (("mean", "mean"), ("most_changed", f"channel {shown['channel']}"))
        for key, words in (("clean", "without"), ("patched", "with the patch"))
    ]
    caption = (
        f"{name}, {where}: mean magnitude of the channels, and the channel that the patch "
        "changes most; each kind has one scale"
    )
    return map_table(caption, columns, rows, about=f"{name}: features of {where}")


def _points(at: Mapping[str, Any], key: str, which: str) -> list[Point]:
    shares = [layer[key][which] for layer in at["layers"]]
    return [Point(x=i, share=share) for i, share in enumerate(shares) if share is not None]
