"""`qadtr checks` on a real run: records, none made twice, planted fakes, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploy.core.attack_checks import MARK
from deploy.core.records import read_records
from eval.measure.checks.catalogue import CATALOGUE
from eval.measure.checks.checks_record import (
    KIND,
    ChecksRecord,
    attack_checks_from_records,
    tripped,
)
from qadtr.__main__ import main
from training.record_types import payloads

BUDGET = ["--images", "24", "--set", "steps=6", "--set", "queries=20", "--set", "size_px=10"]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.slow
def test_each_bit_width_gets_a_record_and_none_twice(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["checks", str(run), *BUDGET, "--source", str(run), "--undefended", str(run)]
    # Interrupted behind the first bit-width: what is there stays as it is.
    assert main([*words, "--bits", "32"]) == 0
    (first,) = (run / "records").glob(f"{KIND}-*.json")
    before = first.read_bytes()
    assert main(words) == 0
    assert first.read_bytes() == before
    records = payloads(read_records(run / "records"), KIND, ChecksRecord)
    assert {record["model"]["bit_width"] for record in records} == {32, 4}
    for record in records:
        assert [check["name"] for check in record["checks"]] == list(CATALOGUE)
        assert "not run" not in {check["status"] for check in record["checks"]}
        assert record["checked_images"] == 24
        assert record["attack"]["steps"] == 6
        assert record["attack"]["source"] == record["model"]["checkpoint_sha256"]
        assert record["images"]["split"] == "test"
    capsys.readouterr()
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert len(list((run / "records").glob(f"{KIND}-*.json"))) == 2
    assert all(name in printed for name in CATALOGUE)
    # Another budget is another question.
    assert main([*words, "--bits", "32", "--seed", "1"]) == 0
    assert len(list((run / "records").glob(f"{KIND}-*.json"))) == 3


@pytest.mark.slow
def test_one_check_alone_leaves_the_others_to_other_records(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["checks", str(run), *BUDGET, "--bits", "4"]
    assert main([*words, "--only", "doubled-steps", "--images", "30"]) == 0
    (record,) = payloads(read_records(run / "records"), KIND, ChecksRecord)
    assert record["checked_images"] == 30
    asked = [check["name"] for check in record["checks"] if check["status"] != "not run"]
    assert asked == ["doubled-steps"]
    assert [check["name"] for check in record["checks"]] == list(CATALOGUE)
    assert main(words) == 0
    assert len(read_records(run / "records", KIND)) == 2
    capsys.readouterr()
    with_all = attack_checks_from_records(read_records(run / "records"))
    (found,) = with_all.by_model.values()
    statuses = {check["name"]: check["status"] for check in found["checks"]}
    assert [name for name, status in statuses.items() if status == "not run"] == [
        "transfer",
        "undefended",
        "planted-fakes",
    ]


@pytest.mark.slow
def test_a_planted_fake_is_found_and_says_nothing_of_the_network(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["checks", str(run), *BUDGET, "--bits", "4", "--plant", "gradient-killer"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "behind the planted fake gradient-killer" in printed
    assert f"{MARK} TRIPPED" in printed
    (record,) = payloads(read_records(run / "records"), KIND, ChecksRecord)
    assert record["model"]["planted"] == "gradient-killer"
    assert {"gradient-reaches-patch", "zero-gradients"} <= set(tripped(record))
    statuses = {check["name"]: check["status"] for check in record["checks"]}
    assert {statuses[name] for name in ("transfer", "undefended", "planted-fakes")} == {"not run"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--bits", "3"], "has no bit-width 3; it has 32, 4"),
        (["--set", "stepz=1"], "valid keys are batch_size, images"),
        (["--set", "size_px=40"], "does not fit images of 32 px"),
        (["--images", "100000"], "expected 1 to"),
        (["--plant", "magic"], "gradient-killer"),
        (["--only", "doubled"], "unknown check doubled; known: gradient-reaches-patch"),
        (["--source", "nowhere"], "there is no run folder nowhere"),
    ],
)
def test_what_it_refuses(
    more: list[str], said: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checks", str(trained), *more]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("qadtr: ")
    assert said in line
    assert not list((trained / "records").glob(f"{KIND}-*.json"))
