"""The table of all networks of a group of results, against the records that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.results_networks import networks_table
from benchmarks.results_page import RESULTS
from deploy.core.records import published_records
from eval.report.names import names_from_records
from eval.report.words import MISSING, rate
from eval.stages.zoo import RECORDS, records_below

GROUP = RESULTS / "cifar10-resnet20-cpu"


def cells(records: list[dict[str, Any]]) -> dict[tuple[str, str], Mapping[str, str]]:
    table = networks_table(records, names_from_records(records))
    assert table is not None
    named = [dict(zip(map(str, table.columns), map(str, row), strict=True)) for row in table.rows]
    return {(row["bits"], row["network"]): row for row in named}


def test_each_network_has_a_row_at_each_bit_width_with_the_figures_of_its_records() -> None:
    records = records_below(GROUP)
    found = cells(records)
    row = found["8", "resnet20 QADT-R: central"]
    (certified,) = (
        record["payload"]
        for record in published_records(GROUP / "central" / RECORDS, "certification")
        if (record["payload"]["patch_px"], record["payload"]["model"]["bit_width"]) == (8, 8)
    )
    assert row["certified 8×8"] == rate(certified["certified"])
    right, held = certified["masked"]["k"], certified["certified"]["k"]
    assert row["masked inference, 8×8"].startswith(f"≤ {100 * (right - held) / right:.1f}%")
    assert found["8", "resnet20 TriQDef"]["certified 8×8"] == MISSING
    assert list(dict.fromkeys(bits for bits, _ in found)) == ["float", "8", "4", "2"]


def test_transferred_is_of_the_patches_that_every_network_was_tried_under() -> None:
    records = records_below(GROUP)
    before = cells(records)["2", "resnet20 DWQ"]["transferred"]
    worst = [
        record["payload"]
        for record in published_records(GROUP / "dwq" / RECORDS, "evaluation")
        if record["payload"]["model"]["bit_width"] == 2
        and record["payload"]["patch"]["attack"] == "lavan"
    ]
    assert before == rate(worst[0]["asr"])
    # A patch that one network lacks compares nothing any more.
    kept = [
        record
        for record in records
        if record["kind"] != "evaluation"
        or record["payload"]["patch"]["attack"] != "lavan"
        or record["payload"]["model"]["defense"] != "pbat"
    ]
    assert cells(kept)["2", "resnet20 DWQ"]["transferred"] != before


def test_one_network_needs_no_table() -> None:
    records = published_records(GROUP / "central" / RECORDS)
    assert networks_table(records, names_from_records(records)) is None
