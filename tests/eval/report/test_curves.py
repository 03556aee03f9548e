"""Which results a chart joins with a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eval.report.curves import charts_of
from eval.report.line_chart import Chart
from eval.report.rows import tables_from_records

Record = dict[str, Any]
MakeRecord = Callable[..., Record]


def over_size(*records: Record) -> list[Chart]:
    (table,) = tables_from_records(records)
    return [chart for chart in charts_of(table) if "over size" in chart.about]


def test_sizes_of_one_attack_are_one_chart_and_those_of_other_settings_are_not(
    evaluation: MakeRecord,
) -> None:
    def of_side(px: int, seed: int = 0, **settings: Any) -> Record:
        record = evaluation(patch=f"{px}", name=f"lavan {px}", asr=10 * px)
        record["payload"]["patch"] |= {
            "size_px": [px, px],
            "seed": seed,
            "settings": {"size_px": px, "steps": 100, **settings},
        }
        return record

    (chart,) = over_size(of_side(6), of_side(8))
    attacked, _floor = chart.series
    assert [(point.x, point.share["value"]) for point in attacked.points] == [(6, 0.6), (8, 0.8)]
    assert over_size(of_side(6), of_side(8, steps=400)) == []
    assert over_size(of_side(6), of_side(8, seed=1)) == []


def test_one_bit_width_and_one_size_are_no_chart(evaluation: MakeRecord) -> None:
    (table,) = tables_from_records([evaluation(bits=4)])
    assert charts_of(table) == []
