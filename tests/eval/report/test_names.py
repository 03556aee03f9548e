"""Rows are told apart by run, seed and settings; several seeds make one row."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy.core.errors import InputError
from eval.report.adaptive import adaptive_table
from eval.report.names import differing, names_from_records
from eval.report.page import render_report
from eval.report.results import text_table
from eval.report.rows import tables_from_records
from eval.report.seeds import seeds_table, several_seeds
from training.defenses import check_defense

Record = dict[str, Any]
MakeRecord = Callable[..., Record]

CONFIG: Record = {
    "name": "digits",
    "seed": 1,
    "training": {"epochs": 3, "batch_size": 64},
    "defense": {"name": "qadtr", "gir": True, "sizes_px": [6, 8]},
}


def whole_config(defense: str) -> Record:
    """One that today's version reads, with none of the defense's settings."""
    return {
        "name": "digits",
        "seed": 1,
        "data": {"kind": "digits", "size": 16},
        "network": {"name": "resnet8", "bit_widths": [4]},
        "training": {"epochs": 3.0},
        "defense": {"name": defense},
    }


def of_run(record: Record, run: str, seed: int = 1, **defense: object) -> Record:
    """The record as one of that run, with a checkpoint of its own."""
    record, config = copy.deepcopy(record), copy.deepcopy(CONFIG)
    config["seed"] = seed
    config["defense"] |= defense
    model = record["payload"]["model"]
    model["run"] = {"name": run, "seed": seed, "config": config}
    model["checkpoint_sha256"] = run.encode().hex().ljust(64, "0")[:64]
    model["file_sha256"] = model["checkpoint_sha256"]
    return record


def test_ablations_are_named_by_their_folders_and_what_differs_is_below(
    evaluation: MakeRecord,
) -> None:
    made = evaluation(defense="qadtr")
    records = [
        of_run(made, "full"),
        of_run(made, "without-gir", gir=False),
        of_run(made, "small", seed=7, sizes_px=[4, 6]),
    ]
    (table,) = tables_from_records(records)
    assert sorted(row.label for row in table.rows) == [
        "resnet8 QADT-R: full",
        "resnet8 QADT-R: small",
        "resnet8 QADT-R: without-gir",
    ]
    assert sorted(table.trainings) == [
        "resnet8 QADT-R: full: seed 1, gir=true, sizes_px=[6 8]",
        "resnet8 QADT-R: small: seed 7, gir=true, sizes_px=[4 6]",
        "resnet8 QADT-R: without-gir: seed 1, gir=false, sizes_px=[6 8]",
    ]
    page, text = render_report(records, title="t"), text_table(records)
    for told in (*(row.label for row in table.rows), *table.trainings):
        assert told in text
        assert told in page


def test_folders_of_one_name_are_told_apart_by_seed_then_settings(evaluation: MakeRecord) -> None:
    made = evaluation(defense="qadtr")
    records = [
        of_run(made, "run"),
        of_run(made, "run", seed=2),
        of_run(made, "run", seed=2, gir=False),
        of_run(made, "other", seed=2, gir=False),
    ]
    for i, record in enumerate(records):
        record["payload"]["model"]["checkpoint_sha256"] = str(i) * 64
    assert sorted(names_from_records(records).by_checkpoint.values()) == [
        "resnet8 QADT-R: other",
        "resnet8 QADT-R: run, seed 1",
        "resnet8 QADT-R: run, seed 2, gir=false",
        "resnet8 QADT-R: run, seed 2, gir=true",
    ]


def test_a_network_alone_of_its_kind_needs_no_more_than_its_kind(evaluation: MakeRecord) -> None:
    records = [of_run(evaluation(), "plain"), of_run(evaluation(defense="qadtr"), "defended")]
    (table,) = tables_from_records(records)
    assert [row.label for row in table.rows] == ["resnet8 plain QAT", "resnet8 QADT-R"]
    assert table.trainings == ()


def test_records_of_before_keep_the_start_of_the_hash(evaluation: MakeRecord) -> None:
    before = evaluation(checkpoint="1" * 64)
    names = names_from_records([before, of_run(evaluation(), "later", seed=2)])
    assert names.of(before["payload"]["model"]) == "resnet8 plain QAT #111111"
    assert "resnet8 plain QAT: later" in names.by_checkpoint.values()
    assert names.lines() == ("resnet8 plain QAT: later: seed 2",)
    # Runs of one name and the same settings, of other data: the hash is what is left.
    twice = [of_run(evaluation(), "same"), of_run(evaluation(), "same")]
    twice[1]["payload"]["model"]["checkpoint_sha256"] = "2" * 64
    assert len(set(names_from_records(twice).by_checkpoint.values())) == 2


def test_a_setting_that_is_newer_than_a_record_is_at_its_default(evaluation: MakeRecord) -> None:
    before = whole_config("qat")
    now = copy.deepcopy(before)
    now["data"] |= {"masks": 0.5, "mask_px": [6, 12]}
    now["defense"]["schedule"] = "cycle"
    assert differing([before, now]) == ["masks=0.0", "masks=0.5"]


def test_a_setting_that_is_newer_than_a_record_is_what_it_was_then(evaluation: MakeRecord) -> None:
    # QADT-R had neither inner steps nor central places before there were settings for them.
    before = whole_config("qadtr")
    now, off = copy.deepcopy(before), copy.deepcopy(before)
    now["defense"] |= {"inner_steps": 4, "central": 0.5}
    off["defense"] |= {"inner_steps": 0, "central": 0.0}
    assert differing([before, now]) == [
        "central=0.0, inner_steps=0",
        "central=0.5, inner_steps=4",
    ]
    assert differing([before, off]) == ["", ""]
    # As a training of today, without a word of them, has today's defaults.
    assert check_defense({"name": "qadtr"}) == check_defense(now["defense"])


def test_many_settings_are_counted_and_ambiguous_keys_keep_their_table(
    evaluation: MakeRecord,
) -> None:
    other = of_run(evaluation(), "b", epochs=9, a=1, b=2, c=3, d=4)
    other["payload"]["model"]["run"]["config"]["training"]["epochs"] = 5
    names = names_from_records([of_run(evaluation(), "a"), other])
    label = names.of(other["payload"]["model"])
    # The defense's come first; the key of the other table has the same last name.
    told = names.trainings[label]
    assert told == "seed 1, defense.epochs=9, a=1, b=2, c=3, d=4, training.epochs=5"
    configs = [{"defense": {"name": "own:Defense", **dict.fromkeys("abcd", i)}} for i in (1, 2)]
    assert differing(configs)[1] == "a=2, b=2, c=2, 1 more setting"


def test_more_settings_are_told_where_fewer_would_not_tell_apart(evaluation: MakeRecord) -> None:
    def told(**last: object) -> Record:
        return {"name": "digits", "seed": 1, "defense": {"name": "own:Defense", **last}}

    assert differing([told(a=1, b=1, c=1, d=1, e=1), told(a=2, b=2, c=2, d=2, e=2)]) == [
        "a=1, b=1, c=1, 2 more settings",
        "a=2, b=2, c=2, 2 more settings",
    ]
    same = {"a": 1, "b": 1, "c": 1}
    found = differing([told(**same, d=1), told(**same, d=2), told(a=2, b=2, c=2, d=1)])
    assert found == ["a=1, b=1, c=1, d=1", "a=1, b=1, c=1, d=2", "a=2, b=2, c=2, d=1"]


def test_seeds_are_one_row_with_mean_deviation_and_spread(evaluation: MakeRecord) -> None:
    rates = {1: 10, 2: 20, 3: 60}
    records = [
        of_run(evaluation(defense="qadtr", asr=asr, clean=900 + seed), f"s{seed}", seed)
        for seed, asr in rates.items()
    ]
    records += [
        of_run(evaluation(defense="qadtr", asr=5), "no-gir", 1, gir=False),
        of_run(evaluation(asr=46), "plain"),
    ]
    (table,) = tables_from_records(records)
    lines = seeds_table(table).text().splitlines()
    at = lines.index("resnet8 QADT-R, gir=true, seeds 1, 2, 3")
    # Of 10, 20 and 60%: mean 30, sample deviation √((400 + 100 + 900) / 2) = 26.5.
    assert lines[at + 1].endswith(" 30.0 ± 26.5 (10.0–60.0)")
    assert "90.2 ± 0.1 (90.1–90.3)" in lines[at + 1]
    assert lines[lines.index("resnet8 QADT-R, gir=false, seed 1") + 1].split() == [
        "2",
        "92.0",
        "5.0",
    ]
    assert several_seeds(table)
    # Another export of one of the trainings is not a further training, and the newer result counts.
    again = of_run(evaluation(defense="qadtr", asr=30, clean=903), "s3", 3)
    again["payload"]["model"]["file_sha256"] = "0" * 64
    (twice,) = tables_from_records([*records, again])
    # Of 10, 20 and 30%.
    assert " 20.0 ± 10.0 (10.0–30.0)" in seeds_table(twice).text()
    page = render_report(records, title="t", by_seed=True)
    assert "30.0 ± 26.5 (10.0–60.0)" in page
    assert "Over seeds" not in render_report(records, title="t")


def test_networks_of_one_seed_and_the_same_settings_are_no_seeds_of_one_training(
    evaluation: MakeRecord,
) -> None:
    """They started from other weights, say, which a config does not state."""
    records = [
        of_run(evaluation(defense="qadtr", asr=10), "from-a", 1),
        of_run(evaluation(defense="qadtr", asr=50), "from-b", 1),
        of_run(evaluation(defense="qadtr", asr=20), "of-which", 2),
    ]
    (table,) = tables_from_records(records)
    assert not several_seeds(table)
    lines = seeds_table(table).text().splitlines()
    for name, seed, asr in (("from-a", 1, "10.0"), ("from-b", 1, "50.0"), ("of-which", 2, "20.0")):
        at = lines.index(f"resnet8 QADT-R: {name}, seed {seed}")
        assert lines[at + 1].endswith(f" {asr}")


def test_records_of_before_cannot_be_grouped(evaluation: MakeRecord) -> None:
    (table,) = tables_from_records([evaluation()])
    assert not several_seeds(table)
    with pytest.raises(InputError, match="evaluate again to group by seed"):
        seeds_table(table)


def test_adaptive_rows_have_the_names_too(evaluation: MakeRecord) -> None:
    from deploy.core.records import read_records
    from tests.eval.report.test_report_page import RESULTS

    records = read_records(RESULTS / "plain" / "records")
    others = [copy.deepcopy(record) for record in records if record["kind"] == "adaptive"]
    for record in others:
        model = record["payload"]["model"]
        model["checkpoint_sha256"] = "1" * 64
        model["run"] = {"name": "again", "seed": 5, "config": CONFIG}
    table = adaptive_table([*records, *others])
    assert "plain QAT: again" in table
    # The settings are no part of the name any more, and this may be the only table.
    assert "plain QAT: again: seed 5" in table
