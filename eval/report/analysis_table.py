"""The main figure of each analysis, a row for each network and bit-width; for terminal and docs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND, MARK
from deploy.core.bit_widths import bits_label
from deploy.core.errors import NothingToEvaluate
from deploy.core.table import Table
from eval.measure.analyses import feature_maps as features
from eval.measure.analyses import gradient_alignment as alignment
from eval.measure.analyses import occlusion
from eval.measure.analyses import patch_locations as locations
from eval.measure.analyses import patch_visibility as visibility
from eval.measure.analyses.analysis_record import analyses_from_records
from eval.measure.analyses.means import Mean
from eval.measure.checks.checks_record import attack_checks_from_records
from eval.measure.evaluation_record import patch_identity
from eval.report.misfits import refuses_misfits
from eval.report.names import names_from_records
from eval.report.words import MISSING, PLAIN, images_words, mean, percent, rate

HEADER = (
    "network",
    "bits",
    "gradient cosine to the widest",
    "the same in the patch",
    "ASR at its own place",
    "ASR, mean of all places",
    "ASR at one place or more; noise",
    "saliency in the patch (without it)",
    "change of convolutions 1, 2, 3",
    "largest drop of the logit by a grey square",
)

KINDS = tuple(one.KIND for one in (alignment, features, occlusion, locations, visibility))
"""Kinds of record that the rows are made of."""

_Figure = tuple[Mapping[str, Any], int, int, str]
"""Payload, bit-width, column of :data:`HEADER`, and what stands there."""


def analysis_rows(records: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """One row for each network, patch and bit-width, in the words of :data:`HEADER`.

    Raises:
        InputError: a record lacks a field.
    """
    records = list(records)
    rows: dict[tuple[Any, ...], dict[int, str]] = {}
    without_patch: list[tuple[tuple[Any, ...], int, str]] = []
    names = names_from_records(records)
    for payload, bits, column, words in _figures(records):
        model, patch = payload["model"], payload["patch"]
        key = (model["defense"] not in PLAIN, names.of(model), -bits, model["checkpoint_sha256"])
        if patch is None:
            without_patch.append((key, column, words))
        else:
            rows.setdefault((*key, str(patch_identity(patch))), {})[column] = words
    for key, column, words in without_patch:
        # The same figure is in the network's row of every patch.
        for same in [row for row in rows if row[:-1] == key] or [(*key, "")]:
            rows.setdefault(same, {})[column] = words
    return [
        [key[1], bits_label(-key[2]), *(rows[key].get(i, MISSING) for i in range(2, len(HEADER)))]
        for key in sorted(rows)
    ]


def _figures(records: Sequence[Mapping[str, Any]]) -> Iterator[_Figure]:
    checks = attack_checks_from_records(records)
    for payload in analyses_from_records(records, alignment.KIND, alignment.GradientAlignment):
        widest = max(payload["model"]["bit_widths"])
        for pair in payload["pairs"]:
            column = {"image": 2, "inside": 3}.get(pair["region"])
            of_patched = pair["on"] == "patched" and pair["bit_widths"][0] == widest
            if of_patched and column is not None:
                yield payload, pair["bit_widths"][1], column, mean(pair["measures"]["cosine"])
    for payload in analyses_from_records(records, locations.KIND, locations.PatchLocations):
        for at in payload["bits"]:
            bits = at["bit_width"]
            mark = checks.mark_at(payload["model"]["checkpoint_sha256"], bits)
            noise = percent(at["floor_somewhere"]["value"])
            yield payload, bits, 4, rate(at["own_place"], mark)
            yield payload, bits, 5, rate(at["over_places"], mark)
            yield payload, bits, 6, f"{rate(at['somewhere'], mark)}; {noise}"
    for payload in analyses_from_records(records, visibility.KIND, visibility.PatchVisibility):
        for at in payload["bits"]:
            words = "; ".join(rate(at["saliency"][which]) for which in ("patched", "clean"))
            yield payload, at["bit_width"], 7, words
    for payload in analyses_from_records(records, features.KIND, features.FeatureMaps):
        changes: dict[int, list[str]] = {}
        for unit in payload["units"]:
            shown = MISSING if unit["change"] is None else f"{unit['change']['value']:.2f}"
            changes.setdefault(unit["bit_width"], []).append(shown)
        for bits, found in changes.items():
            yield payload, bits, 8, ", ".join(found)
    for payload in analyses_from_records(records, occlusion.KIND, occlusion.Occlusion):
        for at in payload["bits"]:
            yield payload, at["bit_width"], 9, _largest(at)


@refuses_misfits
def analysis_table(records: Iterable[Mapping[str, Any]]) -> str:
    """The figures as text, a block for each network and bit-width.

    Raises:
        NothingToEvaluate: there is no figure among the records.
    """
    rows = analysis_rows(records)
    if not rows:
        raise NothingToEvaluate("no analysis with figures found; run `qadtr analyze RUN` first")
    figures = [
        (f"{name}, {bits}{' bits' if bits.isdigit() else ''}", what, value)
        for name, bits, *values in rows
        for what, value in zip(HEADER[2:], values, strict=True)
        if value != MISSING
    ]
    marked = any(MARK in value for *_, value in figures)
    notes = [LOWER_BOUND] if marked else ()
    return Table(columns=("", "", ""), rows=figures, notes=notes, grouped=True).text()


def analysed(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What was looked at, in words: images, split, count and patch, each once."""
    found: dict[str, None] = {}
    for record in records:
        if record["kind"] in KINDS and record["payload"]["patch"] is not None:
            images, patch = record["payload"]["images"], record["payload"]["patch"]
            found[
                f"{record['payload']['analysed']} images of {images_words(images)}; "
                f"{patch['name']}, {percent(patch['area_share'])} of the image"
            ] = None
    return list(found)


def _largest(at: Mapping[str, Any]) -> str:
    drop, low, high = (
        [value for row in at[name] for value in row] for name in ("drop", "low", "high")
    )
    place = drop.index(max(drop))
    return mean(Mean(n=at["n"], value=drop[place], low=low[place], high=high[place]))
