"""The table for the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from eval.report.results import text_table

Record = dict[str, Any]
MakeRecord = Callable[..., Record]


def test_every_figure_of_a_row_stands_in_its_line(records: list[Record]) -> None:
    lines = text_table(records).splitlines()
    assert lines[0] == "cifar10, test split, 1,000 images, engine onnxruntime"
    plain = lines.index("resnet8 plain QAT")
    hardened = lines.index("resnet8 QADT-R")
    two_bits = lines[plain + 4].split()
    assert two_bits == [
        *("2", "88.0%"),
        *("10.0%", "(5.5–17.4)", "2.0%"),
        *("46.0%", "(36.6–55.7)", "2.0%"),
        *("30.0", "kB", "1/10.3", "0.50", "ms"),
    ]
    assert lines[hardened + 3].split()[0] == "4"
    assert lines[hardened + 3].endswith("*")
    assert not lines[hardened + 4].endswith("*")
    assert any(
        line.startswith("* not comparable: resnet8 QADT-R, 4 bits: clean accuracy 2.8 points")
        for line in lines
    )
    assert "(n = 100)" in lines[-3]


def test_columns_are_aligned(records: list[Record]) -> None:
    lines = text_table(records).splitlines()
    rows = [line for line in lines if line.startswith("  ") and "kB" in line]
    assert len(rows) == 8
    assert len({line.index(" kB") for line in rows}) == 1


def test_what_was_not_measured_is_a_dash_and_no_number(evaluation: MakeRecord) -> None:
    first = evaluation(patch="a" * 64, name="a", attack="gap", kind="universal")
    second = evaluation(patch="b" * 64, defense="qadtr")
    second["payload"]["latency"] = None
    second["payload"]["model"]["file_size_bytes"] = None
    lines = text_table([first, second]).splitlines()
    hardened = lines[lines.index("resnet8 QADT-R") + 1]
    assert hardened.split() == ["2", "92.0%", "–", "–", "46.0%", "(36.6–55.7)", "2.0%", "–", "–"]


def test_engines_get_a_column_where_there_are_two(evaluation: MakeRecord) -> None:
    text = text_table([evaluation(), evaluation(engine="torch")])
    assert "engine onnxruntime" not in text.splitlines()[0]
    assert {"torch", "onnxruntime"} <= set(text.split())


def test_the_table_marks_every_rate_of_a_tripped_row(
    records: list[Record], attack_checks: MakeRecord
) -> None:
    defended = next(
        record["payload"]["model"]["checkpoint_sha256"]
        for record in records
        if record["kind"] == "evaluation" and record["payload"]["model"]["defense"] == "qadtr"
    )
    before = text_table(records)
    assert "†" not in before
    assert "Attack checks" not in before
    text = text_table([*records, attack_checks("tripped", "passed", bits=2, sha=defended)])
    lines = text.splitlines()
    hardened = lines.index("resnet8 QADT-R")
    marked = [line for line in lines[hardened : hardened + 5] if "†" in line]
    assert len(marked) == 1
    assert marked[0].split()[0] == "2"
    assert marked[0].count("%†") == 2  # both patches
    named = "resnet8 QADT-R, 2 bits: † TRIPPED: gradient-reaches-patch; 1 passed"
    assert named in lines
    assert any(re.match(r"resnet8 plain QAT, .*2 bits: not checked$", line) for line in lines)
