"""What a benchmark prints, and writes for the results page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.records import cells_of, described, ratio, report
from deploy.core.share import share
from deploy.core.strict_json import read_json


def test_a_ratio_is_within_each_round() -> None:
    # Twice as long in every round, whatever the machine did meanwhile.
    found = ratio([2.0, 20.0, 4.0, 6.0, 2.0], [1.0, 10.0, 2.0, 3.0, 1.0])
    assert found == {"median": 2.0, "lower_quartile": 2.0, "upper_quartile": 2.0}


def test_a_record_is_a_table_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    difference = {"value": -0.0123, "low": -0.02, "high": 0.001}
    timed = {"median": 1.5, "lower_quartile": 1.25, "upper_quartile": 2.0, "steady_median": None}
    record: dict[str, Any] = {
        "benchmark": "trial",
        "rounds": 12,
        "rows": [
            {"accuracy": share(50, 100), "bits": 8, "over": {"float": timed}, "settings": {"a": 1}},
            {"bits": 4, "over": {"float": {**timed, "steady_median": 1.75}}, "points": difference},
        ],
    }
    assert described(record) == "rounds 12"
    assert cells_of(record) == [
        ["bits", "accuracy", "over float", "points"],
        ["8", "50.0% (40.4–59.6), n 100", "1.50 (1.25–2.00)", ""],
        ["4", "", "1.50 (1.25–2.00); 1.75", "-1.23 (-2.00 to +0.10)"],
    ]
    report(record, tmp_path / "record.json")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "rounds 12"
    assert len(printed) == 4
    written: Any = read_json(tmp_path / "record.json")
    assert written["rows"] == record["rows"]
    assert written["provenance"]["packages"]


def test_a_record_of_figures_is_one_row() -> None:
    assert cells_of({"figures": {"first line": 1.62, "bytes": 12345}}) == [
        ["first line", "bytes"],
        ["1.62", "12,345"],
    ]
