"""The main figure of each analysis, a row for each network and bit-width; for terminal and docs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND, MARK
from deploy.core.bit_widths import bits_label
from deploy.core.errors import NothingToEvaluate
from deploy.core.table import Table
from eval.measure.analyses import feature_maps as features
from eval.measure.analyses import gradient_alignment as alignment
from eval.measure.analyses import occlusion, patch_locations, patch_visibility
from eval.measure.analyses.analysis_record import analyses_from_records
from eval.measure.analyses.means import Mean
from eval.measure.checks.checks_record import attack_checks_from_records
from eval.report.words import MISSING, PLAIN, images_words, mean, name_of, percent, rate

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

KINDS = (
    alignment.KIND,
    features.KIND,
    occlusion.KIND,
    patch_locations.KIND,
    patch_visibility.KIND,
)
"""Kinds of record that the rows are made of."""

Row = dict[str, str]


def analysis_rows(records: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """One row for each network, patch and bit-width, in the words of :data:`HEADER`.

    Raises:
        InputError: a record lacks a field.
    """
    records = list(records)
    checks = attack_checks_from_records(records)
    rows: dict[tuple[str, str, int], Row] = {}
    defended = {
        record["payload"]["model"]["checkpoint_sha256"]
        for record in records
        if record["kind"] in KINDS and record["payload"]["model"]["defense"] not in PLAIN
    }

    def row_of(payload: Mapping[str, Any], bits: int) -> Row:
        model = payload["model"]
        key = (model["checkpoint_sha256"], payload["patch"]["sha256"], bits)
        return rows.setdefault(key, {HEADER[0]: name_of(model), HEADER[1]: bits_label(bits)})

    for payload in analyses_from_records(records, alignment.KIND, alignment.GradientAlignment):
        widest = max(payload["model"]["bit_widths"])
        for pair in payload["pairs"]:
            if pair["on"] == "patched" and pair["bit_widths"][0] == widest:
                place = {"image": HEADER[2], "inside": HEADER[3]}.get(pair["region"])
                if place is not None:
                    cosine = mean(pair["measures"]["cosine"])
                    row_of(payload, pair["bit_widths"][1])[place] = cosine
    for payload in analyses_from_records(
        records, patch_locations.KIND, patch_locations.PatchLocations
    ):
        for at in payload["bits"]:
            mark = checks.mark_at(payload["model"]["checkpoint_sha256"], at["bit_width"])
            row_of(payload, at["bit_width"]).update(
                {
                    HEADER[4]: rate(at["own_place"], mark),
                    HEADER[5]: rate(at["over_places"], mark),
                    HEADER[6]: f"{rate(at['somewhere'], mark)}; "
                    f"{percent(at['floor_somewhere']['value'])}",
                }
            )
    for payload in analyses_from_records(
        records, patch_visibility.KIND, patch_visibility.PatchVisibility
    ):
        for at in payload["bits"]:
            with_it, without = at["saliency"]["patched"], at["saliency"]["clean"]
            words = f"{rate(with_it)}; {rate(without)}"
            row_of(payload, at["bit_width"])[HEADER[7]] = words
    for payload in analyses_from_records(records, features.KIND, features.FeatureMaps):
        for unit in payload["units"]:
            row, change = row_of(payload, unit["bit_width"]), unit["change"]
            shown = MISSING if change is None else f"{change['value']:.2f}"
            row[HEADER[8]] = ", ".join(filter(None, (row.get(HEADER[8]), shown)))
    for payload in analyses_from_records(records, occlusion.KIND, occlusion.Occlusion):
        sha = payload["model"]["checkpoint_sha256"]
        for at in payload["bits"]:
            # No patch is in it: the same figure stands in the network's row of every patch.
            same = [
                row for (of, _, bits), row in rows.items() if (of, bits) == (sha, at["bit_width"])
            ]
            for row in same or [row_of({**payload, "patch": {"sha256": ""}}, at["bit_width"])]:
                row[HEADER[9]] = _largest(at)
    order = [
        (sha in defended, row[HEADER[0]], -bits, patch, row)
        for (sha, patch, bits), row in rows.items()
    ]
    ordered = [row for *_, row in sorted(order, key=lambda entry: entry[:4])]
    return [[row.get(name, MISSING) for name in HEADER] for row in ordered]


def analysis_table(records: Iterable[Mapping[str, Any]]) -> str:
    """The figures as text, a block for each network and bit-width.

    Raises:
        NothingToEvaluate: there is no figure among the records.
    """
    rows = analysis_rows(records)
    if not rows:
        raise NothingToEvaluate("There are no figures of analyses; run `qadtr analyze RUN` first.")
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
