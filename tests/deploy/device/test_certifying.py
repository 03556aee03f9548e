"""Certificates on the device: against the bundle's own engine, in the report, as a gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.double_masking import certified, covering_masks, predict_masked
from deploy.core.json_schema import check, load_schema
from deploy.core.share import share, share_in_words
from deploy.device.bundle_reading import Bundle
from deploy.device.command import main
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.device.suite import read_suite

SMALL = ["--certified", "1", "--certify-images", "60", "--masks-per-axis", "3"]


def report() -> dict[str, Any]:
    found = json.loads(Path("report.json").read_text())
    check(found, load_schema("validation-report-2", "deploy.device"))
    return dict(found)


def test_what_is_certified_is_what_the_engine_says_under_every_pair(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # All images, so that which ones were drawn does not matter here.
    words = ["--certified", "1", "--certify-images", "100000", "--masks-per-axis", "3"]
    assert main([str(bundle), *words, "--markdown", "summary.md"]) == 0
    found = report()["certification"]
    printed = capsys.readouterr().out
    assert f"{found['certified']['n']}" in printed
    right, held = found["masked"]["k"], found["certified"]["k"]
    bound = share_in_words(share(right - held, right))
    assert f"no attack with such a patch succeeds on more than {bound}" in printed
    assert "No patch of 1 px can win" in Path("summary.md").read_text()
    with Bundle(bundle) as opened:
        suite = read_suite(opened)
        with OnnxRuntimeEngine(opened.file("models/onnxruntime-4.onnx")) as engine:
            rows = suite.distinct.nonzero()[0]
            masks = covering_masks(engine.input_shape[1:], 1, per_axis=3)
            holds = certified(engine.predict, suite.images[rows], suite.labels[rows], masks)
    assert found["certified"]["n"] == len(rows)
    assert 0 < found["certified"]["k"] == int(np.count_nonzero(holds)) < len(rows)
    assert found["mean_passes"] >= found["masks"] == len(masks)


def test_the_bundles_patches_are_tried_against_masked_inference(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--certify-images", "100000", "--masks-per-axis", "2"]
    with Bundle(bundle) as opened:
        suite = read_suite(opened)
        side = max(max(patch.patch_set.size_px) for patch in suite.patches)
        with OnnxRuntimeEngine(opened.file("models/onnxruntime-4.onnx")) as engine:
            masks = covering_masks(engine.input_shape[1:], side, per_axis=2)
            rows = suite.distinct.nonzero()[0]
            by_hand = {}
            for patch in suite.patches:
                which = np.isin(patch.rows, rows).nonzero()[0]
                own = patch.rows[which]
                clean = predict_masked(engine.predict, suite.images[own], masks).classes
                pasted = patch.paste(suite.images, which)
                patched = predict_masked(engine.predict, pasted, masks).classes
                right = clean == suite.labels[own]
                if patch.patch_set.target is not None:
                    right &= suite.labels[own] != patch.patch_set.target
                    won = right & (patched == patch.patch_set.target)
                else:
                    won = right & (patched != clean)
                by_hand[patch.facts.name] = (int(won.sum()), int(right.sum()))
    words += ["--markdown", "summary.md"]
    assert main([str(bundle), "--certified", str(side), *words]) == 0
    assert "; of the bundle's patches " in Path("summary.md").read_text()
    found = {
        one["patch"]: (one["asr"]["k"], one["asr"]["n"])
        for one in report()["certification"]["attacks"]
    }
    assert set(by_hand) == {"quiet", "loud"}
    assert found == {name: counts for name, counts in by_hand.items() if counts[1]}
    assert "of the bundle's patches" in capsys.readouterr().out
    # What is larger than the certificate's patch is not covered by it.
    assert main([str(bundle), "--certified", "1", *words]) == 0
    assert [one["patch"] for one in report()["certification"]["attacks"]] == ["quiet"]


@pytest.mark.parametrize(("least", "code", "outcome"), [("0.001", 0, "pass"), ("0.999", 1, "fail")])
def test_a_certificate_can_be_gated(least: str, code: int, outcome: str, bundle: Path) -> None:
    assert main([str(bundle), *SMALL, "--min-certified", least]) == code
    checks = {one["name"]: one["outcome"] for one in report()["checks"]}
    assert checks["min_certified"] == outcome
    assert report()["certification"]["certified"]["n"] <= 60


@pytest.mark.parametrize(
    "words",
    [
        ["--min-certified", "0.1"],
        ["--certify-images", "10"],
        ["--certified", "0"],
        ["--certified", "1", "--masks-per-axis", "1"],
        ["--certified", "1", "--min-certified", "nan"],
        ["--certified", "99"],
    ],
)
def test_4_usage(words: list[str], bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), *words]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1
