"""`qadtr analyze` on a small run: six records, made once, and a section of the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from deploy.core.records import read_records
from eval.report.analyses import analyses_section
from eval.stages.analyze import ANALYSES
from qadtr.__main__ import main
from qadtr.commands.analyze import WHAT


@pytest.fixture(scope="module")
def analysed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = _bare(trained, tmp_path_factory.mktemp("analyses") / "run")
    patch = ["patch", str(run), "--attack", "lavan", "--size", "6", "--steps", "5"]
    assert main([*patch, "--images", "40"]) == 0
    assert main(["analyze", str(run), "--patches", str(run / "patches"), *LESS]) == 0
    return run


def _bare(trained: Path, to: Path) -> Path:
    """The run as the training left it, whatever other tests have made of it since."""
    made_since = shutil.ignore_patterns("records", "patches", "export")
    return Path(shutil.copytree(trained, to, ignore=made_since))


LESS = ["--images", "24", "--stride", "13"]


def test_the_names_are_those_of_the_library() -> None:
    assert tuple(ANALYSES) == WHAT


def test_every_analysis_is_one_record_with_n_and_split(
    analysed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = read_records(analysed / "records")
    assert {record["kind"] for record in records} == {a.kind for a in ANALYSES.values()}
    assert len(records) == len(ANALYSES)
    for record in records:
        payload = record["payload"]
        assert payload["analysed"] == 24
        assert payload["images"]["split"] == "test"
        assert payload["model"]["bit_widths"] == [32, 4]
        assert (payload["patch"] is None) == (record["kind"] == "occlusion")
        assert record["provenance"]["config"]["stride_px"] == 13
    # Asked again, nothing is made; the figures are printed all the same.
    assert main(["analyze", str(analysed), "--patches", str(analysed / "patches"), *LESS]) == 0
    assert len(read_records(analysed / "records")) == len(ANALYSES)
    printed = capsys.readouterr().out
    assert "resnet8 plain QAT, 4 bits" in printed
    assert "ASR at its own place" in printed


def test_turned_and_scaled_supplied_patches_are_analysed(trained: Path, tmp_path: Path) -> None:
    run = _bare(trained, tmp_path / "run")
    file = tmp_path / "bright.npz"
    np.savez(file, patches=np.full((1, 3, 6, 6), 200, np.uint8))
    turned = ["--set", "rotation_degrees=20.0", "--set", "scale_range=[0.8, 1.0]"]
    assert main(["patch", str(run), "--supplied", str(file), *turned, "--images", "40"]) == 0
    assert main(["analyze", str(run), "--patches", str(run / "patches"), *LESS]) == 0
    records = read_records(run / "records")
    assert {record["kind"] for record in records} == {a.kind for a in ANALYSES.values()}
    assert {record["payload"]["analysed"] for record in records} == {24}


def test_the_report_has_a_section_of_them(analysed: Path) -> None:
    section = analyses_section(read_records(analysed / "records"))
    for title in ("Where a patch wins", "Gradient maps", "Patch visibility", "Feature maps"):
        assert f"<h3>{title}</h3>" in section
    assert section.count('class="places"') == 4
    assert "24 images" in section


def test_one_analysis_alone(trained: Path, analysed: Path, tmp_path: Path) -> None:
    run = _bare(trained, tmp_path / "run")
    asked = ["analyze", str(run), "--patches", str(analysed / "patches"), "--what", "occlusion"]
    assert main([*asked, "--bits", "4", "--images", "10", "--stride", "13"]) == 0
    (record,) = read_records(run / "records")
    assert record["kind"] == "occlusion"
    assert [at["bit_width"] for at in record["payload"]["bits"]] == [4]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--bits", "3"], 2, "has no bit-width 3; it has 32, 4"),
        (["--images", "41"], 2, "expected 1 to 40 images, got 41"),
        (["--occluder", "99", "--what", "occlusion"], 2, "does not fit"),
    ],
)
def test_bad_input_is_one_clear_error(
    analysed: Path,
    words: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted((analysed / "records").iterdir())
    asked = ["analyze", str(analysed), "--patches", str(analysed / "patches")]
    assert main([*asked, *words]) == code
    assert message in capsys.readouterr().err
    assert sorted((analysed / "records").iterdir()) == before
