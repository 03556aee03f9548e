"""The table of the defenses, from the evaluation records of its runs; nothing is run here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.outcomes import image_indices, unpack_bits
from deploy.core.patch_set import read_patch_set
from deploy.core.records import records_so_far
from deploy.core.statistics import paired_difference
from eval.measure.checks.checks_record import attack_checks_from_records
from eval.measure.evaluation_record import (
    KIND,
    MOST_CLEAN_LOST,
    EvaluationRecord,
    clean_accuracy_lost,
)
from eval.measure.patch_measures import patch_set_digest
from training.record_types import payloads
from training.run_folder import RunFolder

TABLE = "defense-table.json"
"""Name of the table's file, in the folder of its runs."""

ORIGINS = ("transfer", "white-box")
"""Patches that are tried on every row, and those that were made on the row's own network."""

Files = Mapping[str, Path]
"""Patch files by the name of their column."""

_Key = tuple[str, str, str, int]
"""Row, origin, name of the column, bit-width: a cell."""


def table_from_runs(
    runs: Mapping[str, Path],
    *,
    transferred: Files,
    own: Mapping[str, Files],
    reference: str,
    plain: str,
    split: str,
) -> dict[str, Any]:
    """Every cell of the table, as JSON values; the newest record of a cell is used.

    Args:
        runs: run folders by the row's name.
        transferred: patch files that are tried on every row.
        own: for each row the patch files that were made on that row.
        reference: the row that differences are taken against.
        plain: row of plain QAT, for the rule of comparability.
        split: of the images; records of other splits are ignored.

    Raises:
        InputError: a file is damaged, or two records of one column are of different images.
        NothingToEvaluate: no record belongs to any column.
    """
    folders = {row: RunFolder.open(path) for row, path in runs.items()}
    found: dict[_Key, EvaluationRecord] = {}
    checks = {}
    to_all = _columns(transferred, "transfer")
    for row, folder in folders.items():
        recorded = records_so_far(folder.records)
        checks[row] = attack_checks_from_records(recorded)
        columns = to_all | _columns(own.get(row, {}), "white-box")
        for record in payloads(recorded, KIND, EvaluationRecord):
            where = columns.get(record["patch"]["sha256"])
            current = record["model"]["checkpoint_sha256"] == folder.checkpoint_sha256
            if where is not None and current and record["images"]["split"] == split:
                found[(row, *where, record["model"]["bit_width"])] = record
    if not found:
        raise NothingToEvaluate("no evaluation of these rows on these patches has been recorded")
    names = dict.fromkeys([*transferred, *(name for files in own.values() for name in files)])
    return {
        "kind": "defense-table",
        "reference": reference,
        "rows": [_row_facts(row, folder) for row, folder in folders.items()],
        "columns": [
            (origin, name)
            for origin in ORIGINS
            for name in names
            if any(key[1:3] == (origin, name) for key in found)
        ],
        "cells": [
            _cell(key, found, reference, plain)
            | {
                "seen_size": record["patch"]["size_px"][0] in _sizes_met(folders[key[0]]),
                "tripped_checks": list(checks[key[0]].tripped(record["model"])),
            }
            for key, record in found.items()
        ],
    }


def _columns(files: Files, origin: str) -> dict[str, tuple[str, str]]:
    """Origin and name of the column of each patch set, by its digest."""
    return {patch_set_digest(read_patch_set(file)): (origin, name) for name, file in files.items()}


def _cell(
    key: _Key, found: Mapping[_Key, EvaluationRecord], reference: str, plain: str
) -> dict[str, Any]:
    row, origin, column, bits = key
    record = found[key]
    baseline, other = (found.get((name, origin, column, bits)) for name in (plain, reference))
    clean, comparable = record["clean_accuracy"], None
    if baseline is not None:
        comparable = clean_accuracy_lost(baseline, record) <= MOST_CLEAN_LOST
    return {
        "row": row,
        "origin": origin,
        "column": column,
        "bits": bits,
        "engine": record["model"]["engine"],
        "split": record["images"]["split"],
        "clean_accuracy": dict(clean),
        "asr": dict(record["asr"]),
        "robust_accuracy": dict(record["robust_accuracy"]),
        "floor_asr": dict(record["floor"]["asr"]),
        "comparable": comparable,
        "over_reference": None if other is None or row == reference else _paired(record, other),
    }


def _row_facts(row: str, folder: RunFolder) -> dict[str, Any]:
    config = folder.sidecar["config"]
    rows = folder.sidecar.get("history") or [{}]  # an older run's rows include its speed
    return {
        "row": row,
        "defense": config["defense"],
        "bit_widths": list(folder.bit_widths),
        "epochs": config["training"]["epochs"],
        "images_per_s": folder.sidecar.get("images_per_s", rows[-1].get("images_per_s")),
        "checkpoint_sha256": folder.checkpoint_sha256,
    }


def _sizes_met(folder: RunFolder) -> set[int]:
    """Sides of the patches that the row's training pasted; others are unseen."""
    settings = folder.sidecar["config"]["defense"]
    if settings["name"] == "qadtr" and settings.get("aqapa"):
        own = settings["personal_px"]
        return {*settings["sizes_px"], own, *([own - 2] if own > 4 else [])}
    if settings["name"] in ("pbat", "triqdef"):
        return {settings["size_px"]}
    if settings["name"] == "dwq" and settings.get("attack") == "patch":
        return {settings["patch_px"]}
    return set()


def _paired(record: EvaluationRecord, other: EvaluationRecord) -> dict[str, Any] | None:
    """ASR of ``record`` minus that of ``other`` over the images that both classify correctly."""
    if not np.array_equal(image_indices(record["outcomes"]), image_indices(other["outcomes"])):
        raise InputError(
            f"{record['patch']['name']} was tried on other images in one row than in another; "
            "evaluate both on the same"
        )
    both = _flags(record, "eligible") & _flags(other, "eligible")
    if not both.any():
        return None
    value, interval = paired_difference(
        _flags(record, "success")[both], _flags(other, "success")[both]
    )
    return {"n": int(both.sum()), "value": value, "low": interval.low, "high": interval.high}


def _flags(record: EvaluationRecord, name: str) -> NDArray[np.bool_]:
    outcomes: Mapping[str, Any] = record["outcomes"]
    return unpack_bits(outcomes[name], outcomes["n"])
