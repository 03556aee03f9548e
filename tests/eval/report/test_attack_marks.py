"""A tripped check stands beside the attack success rate in every table and every picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import pytest

from deploy.core.attack_checks import LOWER_BOUND, MARK
from deploy.core.share import share
from eval.measure.checks.checks_record import attack_checks_from_records
from eval.measure.evaluation_record import KIND, EvaluationRecord
from eval.measure.pixel_record import PixelRecord
from eval.report.adaptive import adaptive_table
from eval.report.analyses import analyses_section
from eval.report.analysis_table import analysis_table
from eval.report.attack_checks import doubtful_checks
from eval.report.defenses import defenses_markdown
from eval.report.page import render_report
from eval.report.pixel import pixel_curves, pixel_table
from eval.report.results import text_table
from eval.report.transfer import matrix_text
from training.record_types import payloads

Record = dict[str, Any]
MakeRecord = Callable[..., Record]

PLAIN, DEFENDED = (sha256(name).hexdigest() for name in (b"qat", b"qadtr"))


@pytest.fixture
def tripped(attack_checks: MakeRecord) -> Record:
    """Checks of the defended network at 2 bits, the first of which tripped."""
    return attack_checks("tripped", "passed", bits=2, sha=DEFENDED)


@pytest.fixture
def passed(attack_checks: MakeRecord) -> Record:
    """Checks of the plain network at 2 bits, none of which tripped."""
    return attack_checks("passed", "passed", bits=2, sha=PLAIN)


def section(page: str, key: str) -> str:
    found = re.search(rf'<section id="{key}".*?</section>', page, re.DOTALL)
    if found is None:
        found = re.search(rf'<section[^>]*id="{key}".*?</section>', page, re.DOTALL)
    assert found is not None, key
    return found.group()


def matrix_records(evaluation: MakeRecord) -> list[Record]:
    """Two sources on a plain and a defended target at 2 bits."""
    return [
        evaluation(
            defense=defense, asr=asr, patch=source * 64, source_checkpoint=source * 64,
        )
        for defense in ("qat", "qadtr")
        for source, asr in (("a", 40), ("b", 30))
    ]  # fmt: skip


def with_sources_apart(records: Sequence[Record]) -> list[Record]:
    for record in records:
        source = record["payload"]["patch"]["source"]
        source["seed"] = 1 if source["checkpoint_sha256"].startswith("a") else 2
    return list(records)


def adaptive(law: str, widths: list[int], checkpoint: str = DEFENDED) -> Record:
    payload = {
        "key": sha256(f"{law}{widths}".encode()).hexdigest(),
        "model": {
            "network": "resnet8",
            "defense": "qadtr",
            "checkpoint_sha256": checkpoint,
            "bit_widths": widths,
        },
        "law": law,
        "images": {
            "name": "cifar10",
            "split": "test",
            "digest": "d" * 64,
            "n": 100,
            "classes": ["cat"],
        },
        "patch": {
            "kind": "per-image",
            "size_px": 8,
            "area_px": 64,
            "area_share": 0.0625,
            "placement": "centre",
            "sha256": [],
        },
        "settings": {},
        "seed": 0,
        "clean_accuracy": share(80, 100),
        "asr": share(60, 80),
        "on_engine": {
            "engine": "onnxruntime-cpu",
            "engine_version": "1",
            "file_sha256": [None],
            "asr": share(59, 80),
        },
        "stages": [],
        "randomness": None,
        "draws": [],
        "draws_enough": True,
        "outcomes": {
            "n": 8,
            "first_index": 0,
            "indices": None,
            **dict.fromkeys(("clean_correct", "patched_correct", "eligible", "success"), "ff"),
        },
    }
    return {"format_version": 1, "kind": "adaptive", "payload": payload, "provenance": {}}


def pixel(bits: int, made_at: int) -> PixelRecord:
    return PixelRecord(
        key=sha256(f"{bits}{made_at}".encode()).hexdigest(),
        model={
            "network": "resnet8",
            "defense": "qadtr",
            "bit_width": bits,
            "checkpoint_sha256": DEFENDED,
            "engine": "torch",
            "file_sha256": None,
        },
        attack="pgd",
        norm="Linf",
        epsilon=8.0,
        settings={},
        library="art 1",
        made_at_bit_width=made_at,
        images={
            "name": "cifar10",
            "split": "test",
            "digest": "d" * 64,
            "n": 100,
            "classes": ["cat"],
        },
        attacked=100,
        clean_accuracy=share(80, 100),
        robust_accuracy=share(30, 100),
        asr=share(50, 80),
        largest_change=8,
        mean_l2=1.0,
    )


def test_the_main_table_of_the_page(records: list[Record], tripped: Record, passed: Record) -> None:
    results = section(render_report([*records, passed, tripped], title="t"), "results")
    rows = [row for row in re.findall(r"<tr.*?</tr>", results, re.DOTALL) if f"%{MARK}" in row]
    # Its one row, and there the rates of both patches.
    assert len(rows) == 1
    assert "QADT-R" in rows[0]
    assert rows[0].count(f"%{MARK}") == 2
    without = render_report([*records, passed], title="t")
    assert f"%{MARK}" not in without


def test_the_summary(records: list[Record], tripped: Record) -> None:
    found = section(render_report([*records, tripped], title="t"), "summary")
    # The tripped network is worst at a bit-width that nothing doubts; its rate has no mark there.
    assert "40.0%" in found
    assert LOWER_BOUND in found
    evaluations = [r for r in records if r["kind"] == "evaluation"]
    doubted = [r for r in evaluations if r["payload"]["model"]["bit_width"] == 2]
    found = section(render_report([*doubted, tripped], title="t"), "summary")
    assert f"22.0%{MARK}" in found
    assert f"46.0%{MARK}" not in found  # the plain network's


def test_the_curves(records: list[Record], tripped: Record) -> None:
    curves = section(render_report([*records, tripped], title="t"), "curves")
    charts = re.findall(r"<figure>.*?</figure>", curves, re.DOTALL)
    assert len(charts) == 2
    for chart in charts:
        # Beside the point itself, in its tooltip, and in the words for those who do not see it.
        assert len(re.findall(rf"<text[^>]*>{MARK}</text>", chart)) == 1
        assert re.search(rf"<title>resnet8 QADT-R, 2: \d+\.\d%{MARK}", chart)
        described = re.search(r"<desc>.*?</desc>", chart, re.DOTALL)
        assert described is not None
        assert described.group().count(MARK) == 1
        assert LOWER_BOUND in chart


def test_the_heat_maps_and_the_matrix_of_the_terminal(
    evaluation: MakeRecord, tripped: Record
) -> None:
    records = with_sources_apart(matrix_records(evaluation))
    found = section(render_report([*records, tripped], title="t"), "transfer")
    cells = re.findall(r"<td.*?</td>", found, re.DOTALL)
    marked = [cell for cell in cells if MARK in cell]
    assert len(cells) == 4
    assert len(marked) == 2
    assert all(cell.count(f"%{MARK}") == 2 for cell in marked)  # its ASR, and that in common
    assert LOWER_BOUND in found

    evaluations = payloads(records, KIND, EvaluationRecord)
    lines = matrix_text(evaluations, attack_checks_from_records([tripped])).splitlines()
    assert ["QADT-R" in line for line in lines if f"%{MARK}" in line] == [True, True]
    assert lines[-1] == LOWER_BOUND
    unmarked = matrix_text(evaluations, attack_checks_from_records([]))
    assert MARK not in unmarked


def test_the_adaptive_table_on_both(
    records: list[Record], tripped: Record, attack_checks: MakeRecord
) -> None:
    made = [adaptive("fixed", [8]), adaptive("fixed", [2]), adaptive("worst", [8, 2])]
    eight = attack_checks("passed", bits=8, sha=DEFENDED)
    lines = adaptive_table([*made, eight, tripped]).splitlines()
    rows = {line.split("  ")[1].strip() or line: line for line in lines if "QADT-R" in line}
    assert rows["8"].count(MARK) == 0
    assert rows["2"].count(f"%{MARK}") == 2
    assert rows["worst of 8, 2"].count(f"%{MARK}") == 2  # one tripped bit-width is enough
    assert rows["8"].endswith("1 passed")
    assert rows["2"].endswith("TRIPPED: gradient-reaches-patch; 1 passed")
    assert rows["worst of 8, 2"].endswith("TRIPPED: gradient-reaches-patch")
    only = adaptive_table([made[2], eight]).splitlines()
    assert any(line.endswith("not checked: 2") for line in only)

    page = section(render_report([*records, *made, eight, tripped], title="t"), "adaptive")
    marked = [row for row in re.findall(r"<tr>.*?</tr>", page) if f"%{MARK}" in row]
    assert len(marked) == 2
    assert all(row.count(f"%{MARK}") == 2 for row in marked)


def test_the_pixel_attacks(tripped: Record) -> None:
    checks = attack_checks_from_records([tripped])
    # At 8 bits of its own gradient; at 2 bits; at 8 bits by the gradient of 2 bits.
    lines = pixel_table([pixel(8, 8), pixel(2, 2), pixel(8, 2)], checks).splitlines()
    assert [line.count(f"%{MARK}") for line in lines[2:5]] == [0, 2, 2]
    assert lines[-1] == LOWER_BOUND
    assert len(pixel_table([pixel(8, 8)], checks).splitlines()) == 3

    made = [{"kind": "pixel-attack", "payload": pixel(bits, bits)} for bits in (8, 2)]
    chart = pixel_curves([*made, tripped])
    assert re.search(rf"<title>[^<]*, 2: 30.0%{MARK}", chart)
    assert not re.search(rf"<title>[^<]*, 8: 30.0%{MARK}", chart)
    assert "upper bound" in chart
    assert MARK not in pixel_curves(made)


def test_the_maps_and_figures_of_the_analyses(tripped: Record) -> None:
    rate = share(30, 60)
    payload = {
        "key": "0" * 64,
        "model": {
            "network": "resnet8",
            "defense": "qadtr",
            "checkpoint_sha256": DEFENDED,
            "bit_widths": [8, 2],
        },
        "images": {
            "name": "cifar10",
            "split": "test",
            "digest": "d" * 64,
            "n": 100,
            "classes": ["cat"],
        },
        "analysed": 60,
        "patch": {
            "name": "p",
            "attack": "lavan",
            "kind": "per-image",
            "shape": "square",
            "size_px": [8, 8],
            "area_px": 64,
            "area_share": 0.0625,
            "placement": "centre",
            "target": None,
            "steps": 100,
            "restarts": 1,
            "seed": 0,
            "made_on": "test",
            "settings": {},
            "source": {
                "network": "resnet8",
                "defense": "qat",
                "checkpoint_sha256": "f" * 64,
                "bit_widths": [32],
                "seed": 1,
            },
            "sha256": "a" * 64,
        },
        "settings": {},
        "tops_px": [0],
        "lefts_px": [0],
        "bits": [
            {
                "bit_width": bits,
                "n": 60,
                "own_place": rate,
                "successes": [[30]],
                "floor_successes": [[3]],
                "somewhere": rate,
                "over_places": {"n": 60, "value": 0.5, "low": 0.4, "high": 0.6},
                "floor_somewhere": share(6, 60),
            }
            for bits in (8, 2)
        ],
    }
    made = {"kind": "patch-locations", "payload": payload}
    text = analysis_table([made, tripped])
    assert text.count(f"50.0%{MARK}") == 3
    assert text.splitlines()[-1] == LOWER_BOUND
    eight, two = re.findall(r"<figure.*?</figure>", analyses_section([made, tripped]), re.DOTALL)
    assert MARK not in eight
    assert f"50.0%{MARK}" in two
    assert f"50{MARK}</text>" in two
    assert LOWER_BOUND in two
    assert MARK not in analyses_section([made])


def test_the_table_of_the_defenses() -> None:
    cell = {
        "origin": "transfer",
        "column": "per-image-8",
        "bits": 2,
        "engine": "onnxruntime-cpu",
        "split": "test",
        "seen_size": True,
        "clean_accuracy": share(80, 100),
        "asr": share(20, 80),
        "comparable": True,
        "over_reference": None,
    }
    table = {
        "reference": "full",
        "rows": [{"row": "plain"}, {"row": "full"}],
        "columns": [["transfer", "per-image-8"]],
        "cells": [
            {**cell, "row": "plain", "tripped_checks": []},
            {**cell, "row": "full", "tripped_checks": ["transfer"], "seen_size": False},
        ],
    }
    text = defenses_markdown(table)
    lines = {line.split(" ")[1]: line for line in text.splitlines() if line.startswith("| ")}
    assert MARK not in lines["plain"]
    assert f"25.0{MARK} (" in lines["full"]
    assert f"{LOWER_BOUND} full at 2 bits: transfer." in text
    # Another sign than that of a size which the training has not met.
    assert lines["full"].count(MARK) == 1
    assert "§" in lines["full"]


def test_every_verdict_stands_in_words(
    records: list[Record], tripped: Record, passed: Record
) -> None:
    tripped["payload"]["checks"][0]["measured"] = "the loss rises on 1.0% of the images"
    (named,) = doubtful_checks([*records, passed, tripped])
    assert named.startswith("resnet8 QADT-R")
    assert named.endswith(
        f", 2, gradient-reaches-patch {MARK} TRIPPED: the loss rises on 1.0% of the images"
    )
    page = section(render_report([*records, passed, tripped], title="t"), "attack-checks")
    assert page.count("<table") == 2
    assert page.count(f"{MARK} TRIPPED") == 1
    assert "the loss rises on 1.0% of the images" in page
    assert "Athalye" not in page  # sources stand in the document
    assert LOWER_BOUND in page


def test_a_small_check_does_not_hide_what_a_large_one_showed(
    records: list[Record], tripped: Record, attack_checks: MakeRecord
) -> None:
    small = attack_checks("undecided", "passed", bits=2, sha=DEFENDED)
    small["payload"]["checked_images"] = 8
    assert f"%{MARK}" in text_table([*records, tripped, small])
    large = attack_checks("passed", "passed", bits=2, sha=DEFENDED)
    assert MARK not in text_table([*records, tripped, large]).split("Attack checks")[0]
