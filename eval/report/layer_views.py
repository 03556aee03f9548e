"""Patch visibility and feature maps, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.report.analysis_table import mean_words, share_words
from eval.report.html import Html, join, tag
from eval.report.line_chart import Axis, Point, baseline, drawn_series, line_chart
from eval.report.map_images import map_table
from eval.report.rows import bits_label, bits_words
from eval.report.scrolled_table import scrolled_table


def visibility_views(payload: Mapping[str, Any], name: str) -> Html:
    """Charts of the activation share, and the saliency inside the patch."""
    bits = payload["bits"]
    layers = [layer["layer"] for layer in bits[0]["layers"]]
    axis = Axis(name="convolution", words={i: str(i + 1) for i in range(len(layers))})
    spoken = {i: f"{layer} " for i, layer in enumerate(layers)}
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
                spoken=spoken,
            )
        )
    caption = f"{name}: share of the saliency that lies in the patch's place, means over images"
    head = tag(
        "tr",
        [tag("th", text, scope="col") for text in ("bits", "with the patch", "without", "area")],
    )
    body = [
        tag(
            "tr",
            tag("th", bits_label(at["bit_width"]), scope="row"),
            [tag("td", share_words(at["saliency"][key])) for key in ("patched", "clean", "area")],
        )
        for at in bits
    ]
    table = scrolled_table(head, body, about=caption, caption=caption)
    return join(tag("div", charts, class_="charts"), table)


def feature_views(payload: Mapping[str, Any], name: str) -> Html:
    """How much the patch changes the first convolutions, and pictures of it."""
    caption = f"{name}: what the patch changes in the first convolutions, means over images (95%)"
    titles = (
        "convolution",
        "bits",
        "change by the patch",
        "cosine to the widest, without the patch",
        "the same with it",
    )
    head = tag("tr", [tag("th", text, scope="col") for text in titles])
    body = []
    previous = ""
    for unit in payload["units"]:
        body.append(
            tag(
                "tr",
                tag("th", unit["layer"], scope="row"),
                tag("td", bits_label(unit["bit_width"])),
                [
                    tag("td", mean_words(unit[key]))
                    for key in ("change", "clean_to_widest", "patched_to_widest")
                ],
                class_="first" if unit["layer"] != previous else None,
            )
        )
        previous = unit["layer"]
    columns = [bits_words(bits) for bits in payload["model"]["bit_widths"]]
    pictures = [_maps(shown, columns, name) for shown in payload["shown"]]
    table = scrolled_table(head, body, about=caption, caption=caption)
    return join(table, tag("div", pictures, class_="charts"))


def gradient_map_views(payload: Mapping[str, Any], name: str) -> Html:
    """The input gradient at each bit-width, without and with the patch."""
    columns = [bits_words(bits) for bits in payload["model"]["bit_widths"]]
    tables = [
        map_table(
            f"{name}: magnitude of the input gradient, image {shown['index']}, each map to its own "
            "maximum",
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
        f"{name}, {where}: mean magnitude of the channels, and the channel that the patch changes "
        "most; one scale for each kind"
    )
    return map_table(caption, columns, rows, about=f"{name}: features of {where}")


def _points(at: Mapping[str, Any], key: str, which: str) -> list[Point]:
    shares = [layer[key][which] for layer in at["layers"]]
    return [Point(x=i, share=share) for i, share in enumerate(shares) if share is not None]
