"""What every benchmark does with its figures: ratios round by round, one table, one record."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.core.records import provenance
from deploy.core.strict_json import write_json

ROOT = Path(__file__).resolve().parents[1]

NOT_SHOWN = {
    *("benchmark", "rows", "figures", "provenance", "certificates", "certificate", "settings"),
    *("defense", "checkpoint_sha256", "sha256", "peers_images_per_s", "openvino_file", "integer"),
    *("processes", "trainings", "layers", "reason"),
    *("multiply_adds", "peak_giga_multiply_adds_per_s"),
}
"""Of a record or a row: what the table leaves out."""


FIRST = ("network", "run", "row", "way", "placement", "threads", "batch", "bits", "tune")
"""Columns that say what a row is of."""


def parser_of(name: str, text: str | None, *, json: bool = True) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.NAME`, with ``--json`` if wanted."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if json:
        parser.add_argument("--json", type=Path, help="also write the record there")
    return parser


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios within each round; both lists in the order of rounds."""
    ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    quarter = len(ratios) // 4
    return {
        "median": statistics.median(ratios),
        "lower_quartile": ratios[quarter],
        "upper_quartile": ratios[-1 - quarter],
    }


def report(record: Mapping[str, Any], path: Path | None) -> None:
    """Print the record, and write it with its provenance where a path is given."""
    rows = cells_of(record)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(described(record))
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    if path is not None:
        write_json(path, {**record, "provenance": provenance(repository=ROOT)})


def described(record: Mapping[str, Any]) -> str:
    """What holds for all rows of a record, such as "network resnet20, rounds 12"."""
    return ", ".join(f"{name} {text}" for name, text in _cells(record).items())


def cells_of(record: Mapping[str, Any]) -> list[list[str]]:
    """The rows of a record as cells, the headings first; empty where a row lacks the figure."""
    rows = [_cells(row) for row in record.get("rows", [record.get("figures", {})])]
    there = dict.fromkeys(name for row in rows for name in row)
    names = [*(name for name in FIRST if name in there), *(n for n in there if n not in FIRST)]
    return [names, *([row.get(name, "") for name in names] for row in rows)]


def _cells(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    cells: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if key in NOT_SHOWN or value is None:
            continue
        if isinstance(value, Mapping) and not {"median", "value"} & value.keys():
            cells |= _cells(value, f"{name} ")
        else:
            cells[name] = _shown(value)
    return cells


def _shown(value: Any) -> str:
    match value:
        case {"median": middle, "lower_quartile": low, "upper_quartile": high, **more}:
            steady = more.get("steady_median")
            undisturbed = "" if steady is None else f"; {steady:.2f}"
            return f"{middle:.2f} ({low:.2f}–{high:.2f}){undisturbed}"
        case {"value": share, "low": low, "high": high, "n": n}:
            return f"{100 * share:.1f}% ({100 * low:.1f}–{100 * high:.1f}), n {n:,}"
        case {"value": difference, "low": low, "high": high}:
            return f"{100 * difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
        case list():
            return ", ".join(map(str, value))
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case int():
            return f"{value:,}"
    return str(value)
