"""What tables say of a model's attack checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.core.errors import InputError
from eval.measure.checks.catalogue import CATALOGUE
from eval.measure.checks.checks_record import attack_checks_from_records, verdict
from eval.measure.evaluation_record import ModelFacts

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "checks.md"

MakeChecks = Callable[..., dict[str, Any]]


def model(bits: int = 2, sha: str = "e" * 64) -> ModelFacts:
    return ModelFacts(
        network="resnet8",
        defense="qadtr",
        bit_width=bits,
        checkpoint_sha256=sha,
        file=None,
        file_sha256=None,
        file_size_bytes=None,
        engine="onnxruntime-cpu",
        engine_version="1",
        certificate=None,
    )


def test_the_newest_checks_of_a_model_count(attack_checks: MakeChecks) -> None:
    found = attack_checks_from_records(
        [attack_checks("tripped", "passed"), attack_checks("passed", "passed")]
    )
    assert found.tripped(model()) == ()
    assert found.mark(model()) == ""
    assert found.words(model()) == "2 passed"
    assert found.words(model(bits=8)) == "not checked"


def test_each_check_counts_as_the_most_images_found_it(attack_checks: MakeChecks) -> None:
    few, many = attack_checks("undecided", "passed"), attack_checks("tripped", "not run")
    many["payload"]["checked_images"] = few["payload"]["checked_images"] + 1
    # Whichever is newer: more images count, and a check that was not run says nothing.
    few["payload"]["key"], many["payload"]["key"] = "1" * 64, "2" * 64
    for records in ([few, many], [many, few]):
        (record,) = attack_checks_from_records(records).by_model.values()
        statuses = [check["status"] for check in record["checks"]]
        assert statuses == ["tripped", "passed"]
        budgets = [check["measured"].endswith("steps)") for check in record["checks"]]
        assert sorted(budgets) == [False, True]  # one of them is from the other record, and says so


def test_what_tripped_is_named_first(attack_checks: MakeChecks) -> None:
    found = attack_checks_from_records([attack_checks("passed", "tripped", "undecided", "not run")])
    assert found.tripped(model()) == ("randomness",)
    assert found.mark(model()) == "†"
    expected = "TRIPPED: randomness; undecided: doubled-steps; not run: transfer; 1 passed"
    assert found.words(model()) == expected


def test_a_planted_fake_says_nothing_about_the_network_under_it(attack_checks: MakeChecks) -> None:
    found = attack_checks_from_records([attack_checks("tripped", planted="logit-noise")])
    assert found.of(model()) is None
    assert [verdict(record) for record in found.planted] == [
        "TRIPPED: gradient-reaches-patch; 0 passed"
    ]


def test_a_damaged_record_is_refused(attack_checks: MakeChecks) -> None:
    record = attack_checks("passed")
    del record["payload"]["model"]["planted"]
    with pytest.raises(InputError, match="planted"):
        attack_checks_from_records([record])
    with pytest.raises(InputError, match="passed, tripped, undecided, not run"):
        attack_checks_from_records([attack_checks("fine")])


def test_the_document_has_every_check_with_its_threshold_and_source() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{name}` | {check.title} | {check.trips} | {check.source} |"
        for name, check in CATALOGUE.items()
    ]
