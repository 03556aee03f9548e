"""The results in the documents are those of the records in the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records import ROOT
from benchmarks.results_compared import Results, results_of
from benchmarks.results_page import HEADING, RESULTS, TOPIC_PAGES, results_pages
from benchmarks.results_sentences import sentences
from benchmarks.results_topics import TOPICS, topic_page
from deploy.core.errors import InputError
from deploy.core.records import read_records, write_record
from eval.measure.checks.catalogue import CATALOGUE
from eval.measure.checks.checks_record import KIND as CHECKS_KIND
from eval.measure.checks.checks_record import ChecksRecord, tripped
from eval.stages.report import write_report
from training.record_types import payloads
from training.run_folder import RunFolder


@pytest.fixture(scope="module")
def results() -> Results:
    return results_of(RESULTS)


def test_every_page_is_what_the_records_give() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = results_pages(RESULTS, readme)
    stale = [path for path, data in pages.items() if (ROOT / path).read_bytes() != data]
    assert stale == []
    left = {path.relative_to(ROOT) for path in (ROOT / TOPIC_PAGES).iterdir()} - set(pages)
    assert left == set()


def test_the_table_of_the_readme_is_that_of_the_records_and_three_sentences_follow(
    results: Results,
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = readme.partition(HEADING)[2].partition("\n## ")[0].strip()
    lines = [line.strip("| ").split(" | ") for line in found.splitlines() if line[:1] == "|"]
    columns, rows = lines[0], lines[2:]
    shown = {(row[1], row[0]): dict(zip(columns, row, strict=True)) for row in rows}
    tried: dict[tuple[str, int], list[Any]] = {}
    for folder in RESULTS.glob("*/*/records"):
        for payload in (record["payload"] for record in read_records(folder, "evaluation")):
            model = payload["model"]
            tried.setdefault((model["checkpoint_sha256"], model["bit_width"]), []).append(payload)
    for one in results.networks.values():
        for bits, figures in one.figures.items():
            own = figures.model["checkpoint_sha256"]
            at = tried[own, bits]
            brought = [p for p in at if p["patch"]["source"]["checkpoint_sha256"] != own]
            row = shown[one.label, str(bits)]
            assert row["clean"] in [_rate(p["clean_accuracy"]) for p in at]
            assert row["transferred"].replace("†", "") in [_rate(p["asr"]) for p in brought]
    assert _sentences(found.rpartition("|\n\n")[2]) == 3


def test_the_first_page_has_ten_sentences_each_of_figures_or_of_none(results: Results) -> None:
    said = sentences(results)
    assert [_sentences(one) for one in said] == [1] * 10
    assert not [one for one in said if "None" in one or "nan" in one]


def _rate(share: dict[str, float]) -> str:
    value, low, high = (100 * share[key] for key in ("value", "low", "high"))
    return f"{value:.1f}% ({low:.1f}–{high:.1f})"


def _sentences(text: str) -> int:
    return len(re.findall(r"[.](?:\s|$)", text))


def test_what_a_dirty_tree_made_is_on_no_page(tmp_path: Path) -> None:
    topic = TOPICS[0]
    group = tmp_path / "cifar10-resnet20-x" / "run" / "records"
    facts = {"commit": "abc", "dirty": True, "date": "2026-01-01"}
    path = write_record(group, "latency", {"p50_ms": 1.5}, facts)
    with pytest.raises(InputError, match=f"{path.name} was made from a dirty tree"):
        topic_page(topic, tmp_path)
    path.unlink()
    write_record(group, "latency", {"p50_ms": 1.5}, facts | {"dirty": False})
    assert "## cifar10-resnet20-x\n\n*commit abc; 2026-01-01; " in topic_page(topic, tmp_path)


def test_results_that_no_topic_shows_and_too_few_are_refused(tmp_path: Path) -> None:
    for name in ("resnet99", "resnet98"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"no topic shows resnet98, resnet99 of .*TOPICS"):
        results_pages(tmp_path, "")
    for name in ("resnet99", "resnet98"):
        (tmp_path / name).rmdir()
    with pytest.raises(InputError, match=r"speed-resnet20\.json"):
        results_pages(tmp_path, "")


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
