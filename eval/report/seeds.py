"""The main table with the runs that differ in their seed alone as one row: mean, deviation, spread.

A mean over seeds is of trainings, not of images: its deviation is the sample standard deviation
between the networks, beside the least and the largest value.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from deploy.core.errors import InputError
from deploy.core.table import Table
from eval.report.misfits import refuses_misfits
from eval.report.names import apart_in_seed, differing, training_key
from eval.report.rows import ResultTable, Row, tables_from_records
from eval.report.words import MISSING, name_of

_NOTE = (
    "mean ± standard deviation (least–largest) over the trainings of a row, in per cent; "
    "one training has no deviation."
)

_Key: TypeAlias = tuple[str, str, int, str]
"""What the rows of a group share: network and defense (or the label of one that is no seed of
another), all settings, bit-width, engine."""


@refuses_misfits
def seeds_tables(records: Iterable[Mapping[str, Any]]) -> list[Table]:
    """A table for each set of images; errors as :func:`seeds_table` and
    :func:`eval.report.rows.tables_from_records`."""
    return [seeds_table(table) for table in tables_from_records(records)]


def seeds_table(table: ResultTable) -> Table:
    """A row for each network, setting and bit-width.

    Raises:
        InputError: a record does not say what run it is of (it is of an earlier version).
    """
    unknown = [row.label for row in table.rows if row.model.get("run") is None]
    if unknown:
        raise InputError(
            f"the records of {unknown[0]} are of an earlier version and do not state run and "
            "seed; move its records/ away and evaluate again to group by seed"
        )
    groups = _groups(table)
    names = _names(groups)
    columns = ["network", "bits", *(["engine"] if len(table.engines) > 1 else []), "clean"]
    return Table(
        title=f"{table.images_name}, {table.split} split, {table.n:,} images, over seeds",
        columns=[*columns, *(f"{letter}: ASR" for letter in table.legend)],
        rows=[
            [
                name,
                rows[0].bits_label,
                *([rows[0].model["engine"]] if len(table.engines) > 1 else []),
                _spread(rows, lambda row: row.clean["value"]),
                *(
                    _spread(
                        [row for row in rows if column.key in row.cells],
                        lambda row, key=column.key: row.cells[key].asr["value"],  # type: ignore[misc]
                    )
                    for column in table.columns
                ),
            ]
            for name, rows in zip(names, groups.values(), strict=True)
        ],
        align="lr",
        grouped=True,
        notes=[*(f"{letter}: {patch}" for letter, patch in table.legend.items()), _NOTE],
    )


def several_seeds(table: ResultTable) -> bool:
    """Whether two networks of it differ in their seed alone."""
    known = all(row.model.get("run") for row in table.rows)
    return known and any(len(_by_training(rows)) > 1 for rows in _groups(table).values())


def _groups(table: ResultTable) -> dict[_Key, list[Row]]:
    """The rows that differ in their seed alone."""
    trainings: dict[tuple[str, str], list[Row]] = {}
    for row in table.rows:
        training = (name_of(row.model), training_key(row.model["run"]["config"]))
        trainings.setdefault(training, []).append(row)
    groups: dict[_Key, list[Row]] = {}
    for (name, settings), rows in trainings.items():
        seeds = apart_in_seed(row.model for row in rows)
        for row in rows:
            called = name if seeds else row.label
            key = (called, settings, row.model["bit_width"], row.model["engine"])
            groups.setdefault(key, []).append(row)
    return groups


def _names(groups: Mapping[_Key, Sequence[Row]]) -> list[str]:
    """Network, the settings that tell it from others of its kind, and the seeds."""
    kinds: dict[str, dict[str, Row]] = {}
    for (name, settings, *_), rows in groups.items():
        kinds.setdefault(name, {})[settings] = rows[0]
    apart = {
        (name, settings): words
        for name, kind in kinds.items()
        for settings, words in zip(
            kind, differing([row.model["run"]["config"] for row in kind.values()]), strict=True
        )
    }
    found = []
    for (name, settings, *_), rows in groups.items():
        seeds = sorted({row.model["run"]["seed"] for row in rows})
        told = ", ".join(map(str, seeds))
        seed_words = f"{'seed' if len(seeds) == 1 else 'seeds'} {told}"
        found.append(", ".join(filter(None, [name, apart[name, settings], seed_words])))
    return found


def _by_training(rows: Sequence[Row]) -> dict[str | None, Row]:
    """One row for each checkpoint, of several exports the one that was evaluated last."""
    return {row.model["checkpoint_sha256"]: row for row in rows}


def _spread(rows: Sequence[Row], value: Callable[[Row], float]) -> str:
    values = [100.0 * value(row) for row in _by_training(rows).values()]
    if not values:
        return MISSING
    if len(values) == 1:
        return f"{values[0]:.1f}"
    low, high = min(values), max(values)
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f} ({low:.1f}–{high:.1f})"
