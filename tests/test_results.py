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


def test_the_table_of_the_readme_is_what_the_records_give() -> None:
    """The worst over the bit-widths of each network, as the report's headline takes it."""
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    found = readme.partition("## What it has found so far")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| ([\d.]+%†?) \| ([\d.]+%†?) \|$", found, re.MULTILINE)
    computed = [[_percent(one) for one in both] for both in zip(*map(_worst, RUNS), strict=True)]
    assert [[value.strip("†") for value in row[1:]] for row in rows] == computed
    below = found.rpartition("|\n\n")[2]
    assert len(re.findall(r"[.](?:\s|$)", below)) == 3  # sentences


RUNS = ("plain", "qadtr")


def _worst(run: str) -> list[float]:
    """Clean, transferred, adaptive at a fixed bit-width, and adaptive at the worst per image."""
    records = read_records(RESULTS / "cifar10-resnet8-cpu" / run / "records")
    evaluations = [r["payload"] for r in records if r["kind"] == "evaluation"]
    adaptive = [r["payload"] for r in records if r["kind"] == "adaptive"]
    transferred = [
        one["asr"]["value"]
        for one in evaluations
        if one["patch"]["attack"] == "lavan"
        and one["patch"]["size_px"] == [8, 8]
        and one["patch"]["source"]["seed"] == 1001
    ]
    by_law = {
        law: max(one["asr"]["value"] for one in adaptive if one["law"] == law)
        for law in ("fixed", "worst")
    }
    clean = min(one["clean_accuracy"]["value"] for one in evaluations)
    return [clean, max(transferred), by_law["fixed"], by_law["worst"]]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


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
