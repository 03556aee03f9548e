"""What the records say of a network: the worst of each kind, of the engine and the split alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy.core.errors import InputError
from deploy.core.share import share
from eval.report.adaptive import adaptive_table
from eval.report.flat import flat_rows
from eval.report.network_figures import figures_from_records, worst
from tests.eval.report.conftest import PROVENANCE
from tests.eval.report.test_attack_marks import adaptive
from tests.eval.report.test_certification import record as certification

Record = dict[str, Any]
MakeRecord = Callable[..., Record]


def test_the_worst_of_each_kind_in_the_engine_on_the_split(evaluation: MakeRecord) -> None:
    own = evaluation()["payload"]["model"]["checkpoint_sha256"]
    records = [
        evaluation(asr=30, patch="a" * 64),
        evaluation(asr=40, patch="b" * 64),
        evaluation(asr=70, patch="c" * 64, source_checkpoint=own),
        evaluation(asr=99, patch="d" * 64, engine="torch"),
        evaluation(asr=98, patch="d" * 64, split="holdout"),
        evaluation(asr=20, patch="b" * 64),  # made again
        evaluation(asr=90, attack="adaptive", patch="e" * 64, source_checkpoint=own),
        evaluation(asr=97, bits=4),
        {"kind": "drift", "payload": {"model": "a.onnx"}},
    ]
    four, two = figures_from_records(records)
    assert (four.bit_width, two.bit_width) == (4, 2)
    assert {one.asr["k"] for one in two.transferred.values()} == {20, 30}
    assert [one.asr["k"] for one in two.whitebox.values()] == [70]
    assert two.adaptive == {}
    found = worst(two.transferred)
    assert found is not None and found.asr["k"] == 30
    (other,) = [key for key, one in two.transferred.items() if one.asr["k"] == 20]
    assert two.cells([other])["transferred"].startswith("20.0% (")
    assert two.cells([])["transferred"] == two.cells()["adaptive"] == "–"
    assert two.as_json()["adaptive"] is None
    assert two.checks.words == "not checked"


def test_a_newer_weaker_attack_with_other_settings_hides_no_stronger_one(
    evaluation: MakeRecord,
) -> None:
    own = evaluation()["payload"]["model"]["checkpoint_sha256"]
    records = []
    for steps, asr in ((1000, 90), (1, 10), (1000, 80)):  # the first is made again
        whitebox = evaluation(asr=asr, patch=f"{steps}{asr}", source_checkpoint=own)
        whitebox["payload"]["patch"]["settings"] = {"steps": steps}
        known = adaptive("fixed", [2], own)
        payload = {"settings": {"steps": steps}, "asr": share(asr, 100), "on_engine": None}
        known["payload"] |= payload | {"key": f"{steps}{asr}".zfill(64)}
        known["provenance"] = PROVENANCE
        records += [whitebox, known]
    (figures,) = figures_from_records(records)
    for found in (worst(figures.whitebox), worst(figures.adaptive)):
        assert found is not None and found.asr["k"] == 80
    table = adaptive_table(records)
    assert "80.0%" in table and "90.0%" not in table and "10.0%" not in table
    rows = [row for row in flat_rows(records) if row["kind"] == "adaptive"]
    assert {(row["attack_steps"], row["asr_k"]) for row in rows} == {(1000, 80), (1, 10)}


def test_certificates_are_those_of_the_engine_alone() -> None:
    records = [
        {"kind": "certification", "payload": certification(30, certified, engine)}
        for certified, engine in ((12, "onnxruntime-cpu"), (29, "torch"))
    ]
    (figures,) = figures_from_records(records)
    assert figures.certified[2]["certified"]["k"] == 12
    assert figures_from_records(records[1:]) == []


def test_a_record_of_another_form_is_refused_in_one_line(evaluation: MakeRecord) -> None:
    torn = copy.deepcopy(evaluation())
    del torn["payload"]["images"]
    with pytest.raises(InputError, match="do not fit together"):
        figures_from_records([torn])
