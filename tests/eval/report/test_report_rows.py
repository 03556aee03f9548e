"""Rows and columns from records: who is compared with whom."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy.core.errors import InputError, NothingToEvaluate
from eval.report.rows import ResultTable, tables_from_records
from tests.eval.report.test_names import of_run

Record = dict[str, Any]
MakeRecord = Callable[..., Record]


def table_of(*records: Record) -> ResultTable:
    (table,) = tables_from_records(records)
    return table


def test_one_row_a_model_one_column_a_patch(records: list[Record]) -> None:
    table = table_of(*records)
    assert [(row.label, row.model["bit_width"]) for row in table.rows] == [
        (label, bits) for label in ("resnet8 plain QAT", "resnet8 QADT-R") for bits in (32, 8, 4, 2)
    ]
    assert [c.title for c in table.columns] == ["GAP universal 8×8", "LaVAN per-image 8×8"]
    assert "untargeted" in table.columns[0].detail
    assert "made on undefended resnet8 float seed 2" in table.columns[0].detail
    assert all(len(row.cells) == 2 for row in table.rows)
    last = table.rows[-1].cells[table.columns[1].key]
    assert (last.asr["k"], last.asr["n"], last.floor["k"]) == (22, 100, 2)


@pytest.mark.parametrize(
    ("plain", "defended", "verdict"),
    [
        (920, 920, "comparable"),
        (920, 950, "comparable"),
        (920, 900, "comparable"),  # exactly two points: "more than" starts above
        (920, 899, "not comparable"),
    ],
)
def test_two_points_of_clean_accuracy(
    evaluation: MakeRecord, plain: int, defended: int, verdict: str
) -> None:
    table = table_of(evaluation(clean=plain), evaluation(defense="qadtr", clean=defended))
    assert [row.comparability for row in table.rows] == ["baseline", verdict]
    assert table.rows[1].points_under_plain == pytest.approx((plain - defended) / 10)


def test_the_two_points_are_exact_in_counts(evaluation: MakeRecord) -> None:
    # 0.29 - 0.27 > 0.02 in floats; in counts it is exactly two points.
    table = table_of(
        evaluation(clean=29, clean_n=100), evaluation(defense="qadtr", clean=27, clean_n=100)
    )
    assert table.rows[1].comparability == "comparable"


@pytest.mark.parametrize("change", [{"bits": 4}, {"engine": "torch"}, {"network": "resnet20"}])
def test_only_the_same_network_bits_and_engine_compare(
    evaluation: MakeRecord, change: dict[str, Any]
) -> None:
    table = table_of(evaluation(), evaluation(defense="qadtr", clean=100, **change))
    (defended,) = [row for row in table.rows if row.model["defense"] == "qadtr"]
    assert defended.comparability == "no baseline"
    assert defended.points_under_plain is None


def test_the_best_plain_network_is_the_baseline(evaluation: MakeRecord) -> None:
    table = table_of(
        evaluation(clean=900, checkpoint="1" * 64),
        evaluation(clean=930, checkpoint="2" * 64),
        evaluation(defense="qadtr", clean=905),
    )
    assert table.rows[-1].comparability == "not comparable"
    assert [row.label for row in table.rows[:2]] == [
        "resnet8 plain QAT #111111",
        "resnet8 plain QAT #222222",
    ]


def test_a_float_source_network_is_no_baseline_beside_a_quantized_one(
    evaluation: MakeRecord,
) -> None:
    table = table_of(
        evaluation(bits=32, clean=950, checkpoint="1" * 64),  # trained in float only
        evaluation(bits=32, clean=910, checkpoint="2" * 64),
        evaluation(bits=2, clean=900, checkpoint="2" * 64),
        evaluation(defense="qadtr", bits=32, clean=905),
    )
    assert table.rows[-1].comparability == "comparable"


def test_white_box_patches_share_a_column_and_are_named(evaluation: MakeRecord) -> None:
    table = table_of(
        evaluation(checkpoint="1" * 64, source_checkpoint="1" * 64, patch="a" * 64),
        evaluation(
            defense="qadtr", checkpoint="2" * 64, source_checkpoint="2" * 64, patch="b" * 64
        ),
    )
    (column,) = table.columns
    assert "white-box" in column.detail
    assert all(row.cells[column.key].whitebox for row in table.rows)


def test_white_box_patches_of_another_attack_are_another_column(evaluation: MakeRecord) -> None:
    own = {"checkpoint": "1" * 64, "source_checkpoint": "1" * 64}
    strong, weak, again = (
        evaluation(asr=asr, patch=patch, **own) for asr, patch in ((90, "a"), (10, "b"), (15, "c"))
    )
    strong["payload"]["patch"]["settings"] = {"steps": 1000}
    for record in (weak, again):
        record["payload"]["patch"]["settings"] = {"steps": 1}
    # As a version wrote it that knew fewer settings: the same attack.
    again["payload"]["patch"]["settings"]["restarts"] = 1
    table = table_of(strong, weak, again)
    (row,) = table.rows
    found = {c.detail.rpartition(", ")[2]: row.cells[c.key].asr["k"] for c in table.columns}
    assert found == {"steps=1": 15, "steps=1000": 90}


def test_two_patches_that_read_the_same_are_told_apart(evaluation: MakeRecord) -> None:
    table = table_of(evaluation(patch="a" * 64, asr=10), evaluation(patch="b" * 64, asr=20))
    assert len(table.columns) == 2
    assert [column.detail[-13:] for column in table.columns] == ["patch #aaaaaa", "patch #bbbbbb"]


def test_a_newer_record_replaces_an_older_one(evaluation: MakeRecord) -> None:
    table = table_of(evaluation(asr=10), evaluation(asr=20))
    (row,) = table.rows
    assert row.cells[table.columns[0].key].asr["k"] == 20


def test_images_never_mix(evaluation: MakeRecord) -> None:
    tables = tables_from_records([evaluation(), evaluation(defense="qadtr", split="holdout")])
    assert [table.split for table in tables] == ["test", "holdout"]
    assert tables[1].rows[0].comparability == "no baseline"


def test_sizes_are_against_the_float_file_of_the_same_checkpoint(evaluation: MakeRecord) -> None:
    table = table_of(
        evaluation(bits=32, size_bytes=300_000),
        evaluation(bits=2, size_bytes=30_000),
        evaluation(bits=2, size_bytes=30_000, checkpoint="9" * 64),
    )
    ratios = {
        row.model["checkpoint_sha256"] == "9" * 64: row.size_ratio
        for row in table.rows
        if not row.is_float
    }
    assert ratios == {False: 10.0, True: None}


def test_nothing_to_report(parity: MakeRecord) -> None:
    with pytest.raises(NothingToEvaluate, match="no evaluation record"):
        tables_from_records([parity("x")])


def test_a_record_that_lacks_a_field(evaluation: MakeRecord) -> None:
    record = evaluation()
    del record["payload"]["floor"]
    with pytest.raises(InputError, match="floor"):
        tables_from_records([record])


def test_runs_stand_in_the_order_of_their_folders_and_seeds(evaluation: MakeRecord) -> None:
    made = evaluation(defense="qadtr")
    seeds = (10, 2, 1)
    records = [of_run(made, f"{name}-seed{seed}", seed) for name in "ba" for seed in seeds]
    (table,) = tables_from_records(records)
    ordered = [row.label.partition(": ")[2].partition(",")[0] for row in table.rows]
    assert ordered == [f"{name}-seed{seed}" for name in "ab" for seed in (1, 2, 10)]


def test_a_renamed_run_stays_one_row(evaluation: MakeRecord) -> None:
    old = of_run(evaluation(defense="qadtr"), "old")
    new = copy.deepcopy(old)
    new["payload"]["model"]["run"]["name"] = "new"
    (table,) = tables_from_records([old, new])
    assert len(table.rows) == 1
