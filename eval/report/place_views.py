"""Maps of places: where a patch wins, and what covering a place does to the logit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.share import share
from eval.measure.analyses.means import Mean
from eval.report.analysis_table import mean_words, share_words
from eval.report.html import Html, tag
from eval.report.numbers import interval, percent
from eval.report.place_maps import Place, place_map
from eval.report.rows import bits_words

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
                f"{n} images; at its own place {share_words(at['own_place'], mark)}; mean of all "
                f"places {share_words(at['over_places'], mark)}; at one place or more "
                f"{share_words(at['somewhere'], mark)}; noise at most "
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
                f"{at['n']} images; a grey square of {side}×{side} px at each place",
                tops_px=payload["tops_px"],
                lefts_px=payload["lefts_px"],
                places=places,
                about=f"{name}, {bits}: drop of the right class's logit when a place is covered",
            )
        )
    return tag("div", maps, class_="charts small")


def _covered(n: int, largest: float, drop: float, low: float, high: float, lost: int) -> Place:
    words = mean_words(Mean(n=n, value=drop, low=low, high=high))
    return Place(
        shade=drop / largest if largest else 0.0,
        written=f"{drop:.1f}".replace("-", "−"),
        spoken=f"drop {words}, {percent(lost / n)} of {n} images lost",
    )
