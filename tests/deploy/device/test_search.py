"""The search on the device: against the bundle's own engine, in the report, as a gate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.json_schema import check, load_schema
from deploy.core.patch_set import read_patch_set
from deploy.device.bundle_reading import Bundle
from deploy.device.command import main
from deploy.device.measuring import Measurement
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.device.search import SearchSettings, search_on
from deploy.device.suite import read_suite

SMALL = ["--search", "--queries", "60", "--search-size", "5", "--search-images", "40"]


def report() -> dict[str, Any]:
    found = json.loads(Path("report.json").read_text())
    check(found, load_schema("validation-report-2", "deploy.device"))
    return dict(found)


def test_a_search_finds_what_the_brought_patches_do_not(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(bundle), *SMALL, "--search-out", "found.npz"]) == 0
    said = capsys.readouterr().out
    search = report()["search"]
    assert (search["queries"], search["size_px"], search["asr"]["n"]) == (60, 5, 40)
    assert search["asr"]["value"] > search["random_floor"]["value"]
    assert len(search["won"]) == search["asr"]["k"] > 0
    assert search["best_brought"]["name"] == "loud"
    assert "search     5 px, 60 queries per image, by logits: ASR" in said
    # The patches are on file, and the engine says of them what the report says.
    patch_set = read_patch_set(Path("found.npz"))
    with Bundle(bundle) as opened:
        suite = read_suite(opened)
        rows = np.searchsorted(suite.indices, patch_set.image_indices)
        with OnnxRuntimeEngine(opened.file("models/onnxruntime-4.onnx")) as engine:
            predicted = engine.predict(patch_set.paste_on(suite.images[rows]))
    won = patch_set.image_indices[predicted != suite.labels[rows]]
    assert sorted(won.tolist()) == search["won"]


def test_a_search_is_the_same_twice_and_another_with_another_seed(bundle: Path) -> None:
    found = []
    for seed in ("0", "0", "1"):
        assert main([str(bundle), *SMALL, "--seed", seed, "--search-out", "p.npz"]) == 0
        found.append(Path("p.npz").read_bytes())
    assert found[0] == found[1] != found[2]


def test_an_image_that_is_there_twice_is_searched_once(bundle: Path) -> None:
    with Bundle(bundle) as opened:
        suite = read_suite(opened)
        twice = np.repeat(np.arange(0, len(suite.images), 2), 2)
        suite = replace(suite, images=suite.images[twice], labels=suite.labels[twice], patches=())
        with OnnxRuntimeEngine(opened.file("models/onnxruntime-4.onnx")) as engine:
            measured = Measurement(
                clean=engine.predict(suite.images),
                patched=(),
                floor=(),
                changed=(),
                unchanged=(),
                gates={},
                clean_logits_sha256=None,
            )
            settings = SearchSettings(queries=5, size_px=2, images=240)
            found = search_on(engine, suite, measured, settings)
    assert found.success.share["n"] == int(suite.distinct.sum()) == len(twice) // 2


def test_a_search_can_be_gated(bundle: Path) -> None:
    assert main([str(bundle), *SMALL, "--max-search-asr", "0.001"]) == 1
    checks = {one["name"]: one["outcome"] for one in report()["checks"]}
    assert checks["max_asr of the search"] == "fail"
    assert checks["max_asr of quiet"] == "pass"


@pytest.mark.parametrize(
    "words",
    [
        ["--search-answers", "classes"],
        ["--search-location", "fixed"],
        ["--search-target", "2"],
        ["--quick"],
    ],
)
def test_other_searches(words: list[str], bundle: Path) -> None:
    assert main([str(bundle), *SMALL, *words]) == 0
    search = report()["search"]
    assert 0 < search["asr"]["n"] <= 40
    if "--search-location" in words:
        assert search["location"] == "fixed"
    if "--search-target" in words:
        assert search["target"] == 2
        assert search["best_brought"] is None  # those of the bundle have no target


def test_without_a_size_it_is_that_of_the_gated_patch(bundle: Path) -> None:
    assert main([str(bundle), "--search", "--queries", "3"]) == 0
    assert report()["search"]["size_px"] == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--queries", "10"],
        ["--max-search-asr", "0.1"],
        ["--search-out", "found.npz"],
        ["--search", "--queries", "0"],
        ["--search", "--max-search-asr", "2"],
        ["--search", "--search-out", "found.zip"],
        ["--search", "--search-answers", "gradients"],
        ["--search", "--search-size", "9"],
        ["--search", "--search-target", "5"],
    ],
)
def test_4_usage(words: list[str], bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([str(bundle), *words])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    assert code == 4
    assert len(capsys.readouterr().err.splitlines()) == 1
