"""The record of ``benchmarks.patch_attacks`` as Markdown, for the results page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.core.table import Table
from eval.report.words import percent, rate

_COLUMNS = ("places", "ART (Adam) / ours", "ART (PGD) / ours", "ASR ours", "ASR Adam", "ASR PGD")
SIDES = ("ours", "adam", "pgd")
_PLACES = {
    "centre": "at the centre",
    "random": "anywhere",
    "turned": "anywhere, turned by ±22.5° and scaled 0.8 to 1.2",
}


def patch_attacks_rows(record: Mapping[str, Any]) -> str:
    """A sentence on what was compared, the table, and whether the counts agree."""
    side = record["size_px"]
    goal = "untargeted" if record["target"] is None else f"target class {record['target']}"
    lines = [
        (
            f"A universal {side}×{side} px patch ({percent(record['area_share'])} of the image, "
            f"{goal}) on {record['network']}: {record['steps']} steps of {record['batch']} "
            "images, the same images and law of the places on both sides, each in a process of "
            f"its own, one thread, both with {record['versions']}. ART (Adam) has ART's own "
            "defaults, ART (PGD) its signed steps and our setting of the allocator. Time ratios "
            f"are median and quartiles over {record['rounds']} rounds in turn. ASR is judged on "
            "test images, float, in bytes, for all alike."
        ),
        "",
    ]
    rows = []
    agreed = {"images": 0, "pixels_that_differ": 0, "successes_that_differ": 0}
    for row in record["rows"]:
        cells = [_PLACES[row["placement"]]]
        cells += [_ratio(row[f"{other}_over_ours"]) for other in SIDES[1:]]
        cells += [_rate(row["asr"][one]) for one in SIDES]
        rows.append(cells)
        for key in agreed:
            agreed[key] += row["agreement"][key]
    lines += [
        Table(columns=_COLUMNS, rows=rows).markdown(),
        "",
        (
            "ART's patches pasted and their successes counted by ART alone, against our paste and "
            f"our count: {agreed['successes_that_differ']} of {agreed['images']:,} images and "
            f"{agreed['pixels_that_differ']} pixels differ."
        ),
    ]
    return "\n".join(lines)


def _ratio(value: Mapping[str, float]) -> str:
    return f"{value['median']:.2f} ({value['lower_quartile']:.2f}–{value['upper_quartile']:.2f})"


def _rate(share: Mapping[str, float]) -> str:
    return f"{rate(share)}, n {share['n']:,}"
