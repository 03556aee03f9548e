"""The table of the defenses, from the evaluation records of its runs; nothing is run here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.core.attack_checks import LOWER_BOUND, MARK
from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.patch_set import read_patch_set
from deploy.core.records import read_records
from deploy.core.statistics import paired_difference
from eval.measure.checks.checks_record import KIND as CHECKS_KIND
from eval.measure.checks.checks_record import attack_checks_from_records
from eval.measure.evaluation_record import (
    EvaluationRecord,
    Outcomes,
    image_indices,
    read_evaluations,
    unpack_bits,
)
from eval.measure.patch_measures import patch_set_digest
from training.run_folder import RunFolder

TABLE = "defense-table.json"
"""Name of the table's file, in the folder of its runs."""

LEAST_CLEAN = 0.02
"""A row whose clean accuracy is more than this under plain QAT is not comparable."""


@dataclass(frozen=True, kw_only=True)
class PatchColumn:
    """Patches of one kind ("per-image" or "universal") and size (pixels)."""

    kind: str
    size_px: int

    @property
    def name(self) -> str:
        """Such as per-image-8."""
        return f"{self.kind}-{self.size_px}"


Files = Mapping[PatchColumn, Path]
_Cell = tuple[str, str, str, int]
"""Row, "transfer" or "white-box", name of the column, bit-width."""


def table_from_runs(
    runs: Mapping[str, Path],
    *,
    transferred: Files,
    own: Mapping[str, Files],
    reference: str,
    plain: str,
    split: str,
) -> dict[str, Any]:
    """Every cell of the table, as JSON values; the newest record of a cell counts.

    Args:
        runs: run folders by the row's name.
        transferred: patch files that are tried on every row.
        own: for each row the patch files that were made on that row.
        reference: row that differences are taken to.
        plain: row of plain QAT, for the rule of comparability.
        split: of the images; records of another are not of this table.

    Raises:
        InputError: a damaged file, or two records of one column that are of different images.
        NothingToEvaluate: no record belongs to any column.
    """
    columns = [*transferred, *(column for files in own.values() for column in files)]
    cells: dict[_Cell, EvaluationRecord] = {}
    facts, checks = {}, {}
    for row, path in runs.items():
        folder = RunFolder.open(path)
        facts[row] = folder
        there = read_records(folder.records, CHECKS_KIND) if folder.records.is_dir() else []
        checks[row] = attack_checks_from_records(there)
        origin = {_digest(file): ("transfer", column.name) for column, file in transferred.items()}
        origin |= {_digest(file): ("white-box", c.name) for c, file in own.get(row, {}).items()}
        for record in read_evaluations(folder.records) if folder.records.is_dir() else ():
            current = record["model"]["checkpoint_sha256"] == folder.checkpoint_sha256
            where = origin.get(record["patch"]["sha256"])
            if where is not None and current and record["images"]["split"] == split:
                cells[(row, *where, record["model"]["bit_width"])] = record
    if not cells:
        raise NothingToEvaluate("no evaluation of these rows on these patches has been recorded")
    sizes = {column.name: column.size_px for column in columns}
    return {
        "kind": "defense-table",
        "reference": reference,
        "rows": [_row_facts(row, folder) for row, folder in facts.items()],
        "columns": [
            (origin, column.name)
            for origin in ("transfer", "white-box")
            for column in dict.fromkeys(columns)
            if any(key[1:3] == (origin, column.name) for key in cells)
        ],
        "cells": [
            _cell(key, record, cells, reference, plain, _sizes_met(facts[key[0]]), sizes)
            | {"tripped_checks": list(checks[key[0]].tripped(record["model"]))}
            for key, record in cells.items()
        ],
    }


def _digest(path: Path) -> str:
    return patch_set_digest(read_patch_set(path))


def _row_facts(row: str, folder: RunFolder) -> dict[str, Any]:
    config = folder.sidecar["config"]
    history = folder.sidecar.get("history") or [{}]
    return {
        "row": row,
        "defense": config["defense"],
        "bit_widths": list(folder.bit_widths),
        "epochs": config["training"]["epochs"],
        "images_per_s": history[-1].get("images_per_s"),
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


def _cell(
    key: _Cell,
    record: EvaluationRecord,
    cells: Mapping[_Cell, EvaluationRecord],
    reference: str,
    plain: str,
    met: set[int],
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    row, origin, column, bits = key
    clean = record["clean_accuracy"]
    beside = cells.get((plain, origin, column, bits))
    comparable = None
    if beside is not None:
        comparable = clean["value"] >= beside["clean_accuracy"]["value"] - LEAST_CLEAN
    other = cells.get((reference, origin, column, bits))
    return {
        "row": row,
        "origin": origin,
        "column": column,
        "bits": bits,
        "engine": record["model"]["engine"],
        "split": record["images"]["split"],
        "seen_size": sizes[column] in met,
        "clean_accuracy": dict(clean),
        "asr": dict(record["asr"]),
        "robust_accuracy": dict(record["robust_accuracy"]),
        "floor_asr": dict(record["floor"]["asr"]),
        "comparable": comparable,
        "over_reference": None if other is None or row == reference else _paired(record, other),
    }


def _paired(record: EvaluationRecord, other: EvaluationRecord) -> dict[str, Any] | None:
    """ASR of ``record`` minus that of ``other`` over the images that both have right."""
    own, theirs = record["outcomes"], other["outcomes"]
    if not np.array_equal(image_indices(own), image_indices(theirs)):
        raise InputError(
            f"{record['patch']['name']} was tried on other images in one row than in another; "
            "evaluate both on the same"
        )
    both = _bits(own, "eligible") & _bits(theirs, "eligible")
    if not both.any():
        return None
    difference, interval = paired_difference(
        _bits(own, "success")[both], _bits(theirs, "success")[both]
    )
    return {
        "n": int(both.sum()),
        "value": difference,
        "low": interval.low,
        "high": interval.high,
    }


def _bits(outcomes: Outcomes, name: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    texts: Mapping[str, Any] = outcomes
    return unpack_bits(texts[name], outcomes["n"])


def markdown(table: Mapping[str, Any]) -> str:
    """The table for readers: one part for each origin and bit-width, a line for each row."""
    cells = {(c["row"], c["origin"], c["column"], c["bits"]): c for c in table["cells"]}
    widths = sorted({c["bits"] for c in table["cells"]}, reverse=True)
    rows = [facts["row"] for facts in table["rows"]]
    first = table["cells"][0]
    said = (
        f"{first['engine']}, split {first['split']}; ASR in % with Wilson's 95% interval; in "
        f"brackets the difference to {table['reference']} in points over the images that both have "
        "right, with Newcombe's paired 95% interval. § a size that the row's training never "
        "pasted. ‡ clean accuracy more than 2 points under plain QAT: not comparable."
    )
    marked: dict[str, list[str]] = {}
    for cell in table["cells"]:
        tripped = ", ".join(cell.get("tripped_checks", ()))
        if tripped:
            marked.setdefault(tripped, []).append(f"{cell['row']} at {cell['bits']} bits")
    parts = [said]
    if marked:
        where = (f"{', '.join(dict.fromkeys(at))}: {tripped}" for tripped, at in marked.items())
        parts.append(f"{LOWER_BOUND} {'; '.join(where)}.")
    titles = {
        "transfer": "patches of an undefended float network of another seed",
        "white-box": "patches made on the row's own network at its widest bit-width",
    }
    for origin, title in titles.items():
        names = [name for kind, name in table["columns"] if kind == origin]
        for bits in widths if names else ():
            lines = []
            for row in rows:
                of_row = [cells.get((row, origin, name, bits)) for name in names]
                there = [cell for cell in of_row if cell is not None]
                if there:
                    clean = there[0]["clean_accuracy"]
                    mark = " ‡" if there[0]["comparable"] is False else ""
                    shown = [_shown(cell) for cell in of_row]
                    lines.append([f"{row}{mark}", _interval(clean), *shown])
            if lines:
                header = ["row", "clean accuracy", *names]
                parts.append(f"**{bits} bits, {title}**\n\n{_lines([header, *lines])}")
    for row, reason in table.get("failed", {}).items():
        parts.append(f"{row} failed: {reason}")
    return "\n\n".join(parts)


def _shown(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "—"
    # A table of an earlier version has no word on the checks.
    tripped = cell.get("tripped_checks", ())
    text = _interval(cell["asr"], MARK if tripped else "") + ("" if cell["seen_size"] else " §")
    over = cell["over_reference"]
    if over is None:
        return text
    low, value, high = (100.0 * over[key] for key in ("low", "value", "high"))
    return f"{text} [{value:+.1f}, {low:+.1f}…{high:+.1f}]"


def _interval(share: Mapping[str, Any], mark: str = "") -> str:
    low, value, high = (100.0 * share[key] for key in ("low", "value", "high"))
    return f"{value:.1f}{mark} ({low:.1f}–{high:.1f})"


def _lines(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
