"""The results in the documents are those of the records in the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.results_page import PAGE, RESULTS, results_page
from deploy.core.errors import InputError
from deploy.core.records import read_records
from eval.measure.checks.catalogue import CATALOGUE
from eval.measure.checks.checks_record import KIND as CHECKS_KIND
from eval.measure.checks.checks_record import ChecksRecord, tripped
from eval.stages.report import write_report
from training.record_types import payloads
from training.run_folder import RunFolder


def test_the_page_is_what_the_records_give() -> None:
    assert PAGE.read_text(encoding="utf-8") == results_page(RESULTS)


def test_an_empty_folder_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results"):
        results_page(tmp_path)


def test_the_report_of_the_committed_runs_has_every_section(tmp_path: Path) -> None:
    runs = sorted(path for path in (RESULTS / "cifar10-resnet8-cpu").iterdir() if path.is_dir())
    page = write_report(runs, tmp_path / "report.html").read_text(encoding="utf-8")
    sections = re.findall(r'<section id="([a-z-]+)"', page)
    assert set(sections) >= {
        *("summary", "results", "curves", "adaptive", "attack-checks", "pixel", "analyses"),
        *("gallery", "engine", "provenance"),
    }


def test_the_checks_of_a_real_adversarially_trained_network_trip_none() -> None:
    run = RunFolder.open(RESULTS / "cifar10-resnet8-cpu" / "pbat")
    assert run.defense == "pbat"
    records = payloads(read_records(run.records), CHECKS_KIND, ChecksRecord)
    whole = set()
    for record in records:
        assert record["model"]["checkpoint_sha256"] == run.checkpoint_sha256
        assert record["model"]["planted"] is None
        assert [check["name"] for check in record["checks"]] == list(CATALOGUE)
        assert tripped(record) == ()
        statuses = [check["status"] for check in record["checks"]]
        if "not run" not in statuses:  # others are of some checks on more images (--only)
            whole.add(record["model"]["bit_width"])
            assert statuses.count("passed") >= len(CATALOGUE) - 2
    assert whole == set(run.bit_widths)
