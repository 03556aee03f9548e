"""Two trees side by side: turns, and a side that runs its own code."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from benchmarks.beside import BITS, BesideRecord, Side, in_turn
from benchmarks.records import ROOT
from benchmarks.schemas import FOLDER
from training.validated import checked


def test_the_sides_take_turns_in_being_first() -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> float:
        order.append(name)
        return seconds

    taken = in_turn([lambda: call("a", 1.0), lambda: call("b", 2.0)], rounds=2, steps=2)
    assert taken == [[2.0, 2.0], [4.0, 4.0]]
    assert "".join(order) == "abba" + "baab"


def test_the_committed_record_fits_its_schema_and_meets_what_is_wanted() -> None:
    record = json.loads((ROOT / "results" / "benchmarks" / "beside.json").read_text())
    assert checked(BesideRecord, record, "beside.json") is record
    schema = json.loads((FOLDER / "benchmark-beside.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(record)
    assert not record["provenance"]["dirty"]
    medians = {row["row"]: row["ratio"]["median"] for row in record["rows"]}
    assert medians.pop("training step") >= 0.95
    assert max(medians.pop("import qadtr"), medians.pop("qadtr --help")) < 0.3
    assert len(medians) == 2 * len(BITS)
    assert min(medians.values()) >= 0.98


@pytest.mark.slow
def test_a_side_writes_its_files_and_takes_steps(tmp_path: Path) -> None:
    side = Side(ROOT, tmp_path / "side", "resnet8", 4)
    assert side.step() > 0
    side.end()
    assert all((tmp_path / "side" / f"{bits}.onnx").stat().st_size for bits in BITS)
