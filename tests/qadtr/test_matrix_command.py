"""`qadtr matrix`: the same records however the work is split, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from deploy.core.errors import InputError, UsageError
from deploy.core.records import read_records
from eval.stages.matrix.jobs import jobs_of
from eval.stages.matrix.plan import read_plan
from eval.stages.matrix.running import Running
from eval.stages.report import write_report
from qadtr.__main__ import main

PLAN = """
images = 40
made_from = 64
seed = 3

[[source]]
run = "RUN"
bits = [32, [4, 32]]

[[attack]]
name = "lavan"
size_px = [4, 8]
placement = "centre"
steps = 4

[[attack]]
name = "gap"
size_px = 8
steps = 3

[[target]]
run = "RUN"
engine = ["onnxruntime", "torch"]
"""


@pytest.fixture
def plan(exported: Path, tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace("RUN", str(exported)))
    return path


@pytest.fixture(scope="module")
def in_one_process(
    exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The matrix's folder, and its records by their key."""
    folder = tmp_path_factory.mktemp("matrix")
    path = folder / "plan.toml"
    path.write_text(PLAN.replace("RUN", str(exported)))
    assert main(["matrix", str(path), "--out", str(folder / "out")]) == 0
    return folder / "out", results(folder / "out")


def results(out: Path) -> dict[str, dict[str, Any]]:
    records = read_records(out / "records", "evaluation")
    return {record["payload"]["key"]: record["payload"] for record in records}


def test_a_plan_becomes_jobs(plan: Path) -> None:
    jobs = jobs_of(read_plan(plan), plan.parent / "out")
    # 2 sources x (2 sizes of lavan + 1 gap); 2 bit-widths x 2 engines.
    assert len(jobs.patches) == 6
    assert [(job.bits, job.engine) for job in jobs.evaluations] == [
        (32, "onnxruntime"), (4, "onnxruntime"), (32, "torch"), (4, "torch"),
    ]  # fmt: skip
    assert all(len(job.patches) == 6 for job in jobs.evaluations)
    again = jobs_of(read_plan(plan), plan.parent / "out")
    assert jobs == again


def test_every_cell_has_a_record(in_one_process: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    out, records = in_one_process
    assert len(records) == 24
    for payload in records.values():
        assert payload["asr"]["n"] > 0
        assert payload["patch"]["source"]["bit_widths"] in ([32], [4, 32])
        torch_ran = payload["model"]["engine"] == "torch"
        assert (payload["model"]["file_sha256"] is None) == torch_ran
    page = write_report(out, out / "report.html").read_text()
    assert "Transfer between networks" in page
    assert page.count('class="heat"') == 3
    assert "Attack success rate over size" in page


def test_nothing_is_done_twice(
    in_one_process: tuple[Path, dict[str, dict[str, Any]]],
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, records = in_one_process
    copy = Path(shutil.copytree(out, tmp_path / "out"))
    before = sorted(path.name for path in copy.rglob("*"))
    # One lost record is made again; nothing else is touched.
    lost = sorted((copy / "records").glob("evaluation-*.json"))[5]
    lost.unlink()
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.replace("RUN", str(exported)))
    assert main(["matrix", str(path), "--out", str(copy)]) == 0
    assert results(copy) == records
    assert len(sorted(path.name for path in copy.rglob("*"))) == len(before)
    printed = capsys.readouterr().out
    assert "lavan per-image 8×8 px" in printed
    assert printed.count(" *") >= 24  # every cell here is white-box


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [["--workers", "2"], ["--ray", "local", "--workers", "2"]], ids=["processes", "ray"]
)
def test_the_same_records_whoever_does_the_work(
    how: list[str],
    plan: Path,
    tmp_path: Path,
    in_one_process: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    assert main(["matrix", str(plan), "--out", str(tmp_path / "out"), *how]) == 0
    assert results(tmp_path / "out") == in_one_process[1]
    ours, theirs = (sorted((folder / "patches").glob("*.npz")) for folder in (
        tmp_path / "out", in_one_process[0],
    ))  # fmt: skip
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]


def test_the_same_records_from_shards(
    plan: Path, tmp_path: Path, in_one_process: tuple[Path, dict[str, dict[str, Any]]]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    for shard in ("1/2", "2/2"):
        words = ["matrix", str(plan), *out, "--stage", "patches", "--shard", shard]
        assert main(words) == 0
    for shard in ("2/2", "1/2"):
        words = ["matrix", str(plan), *out, "--stage", "evaluate", "--shard", shard]
        assert main(words) == 0
    assert results(tmp_path / "out") == in_one_process[1]


def test_evaluation_before_its_patches_is_refused(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["matrix", str(plan), "--out", str(tmp_path / "out"), "--stage", "evaluate"]
    assert main(words) == 2
    assert "--stage patches" in capsys.readouterr().err


def test_an_error_in_a_worker_is_its_own(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan.write_text(plan.read_text().replace("images = 40", "images = 9999"))
    words = ["matrix", str(plan), "--out", str(tmp_path / "out"), "--workers", "2"]
    assert main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("qadtr: ")
    assert "expected 1 to" in line


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "seed = 3",
            "sead = 3",
            "did you mean 'seed'? valid keys are attack, images",
        ),
        ("seed = 3", "seed = -1", "seed must be"),
        ("images = 40", "images = true", "images must be"),
        ("images = 40", 'split = "train"', "split must be one of test, holdout; got 'train'"),
        ('name = "lavan"', 'name = "magic"', "unknown attack 'magic'"),
        ("steps = 4", "stepz = 4", "unknown key 'stepz'"),
        ("steps = 4", "bit_widths = [4]", "in [[source]]"),
        ('"torch"]', '"tpu"]', "unknown engine tpu"),
        ('engine = ["onnxruntime", "torch"]', "bits = [5]", "no exported model at 5 bits"),
        ("bits = [32, [4, 32]]", "bits = [2]", "has no bit-width 2"),
        ("[[target]]", "[[targets]]", "did you mean 'target'"),
        (
            "[[source]]\nrun",
            "[[source]]\nfolder",
            "'source[0].folder'; valid keys are bits, run",
        ),
        ("images = 40", "images = ", "cannot be read as TOML"),
    ],
)
def test_plans_that_are_refused(plan: Path, old: str, new: str, said: str) -> None:
    text = plan.read_text()
    assert old in text
    plan.write_text(text.replace(old, new))
    with pytest.raises(InputError) as refusal:
        jobs_of(read_plan(plan), plan.parent / "out")
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stage": "none"}, "all, patches, evaluate"),
        ({"workers": 0}, "workers must be at least 1; got 0"),
        ({"shard": (3, 2), "stage": "patches"}, "1/4"),
        ({"shard": (1, 2)}, "--stage patches"),
    ],
)
def test_ways_to_run_that_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Running(**values)


def test_a_cluster_that_is_not_there(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["matrix", str(plan), "--out", str(tmp_path / "out")]
    assert main([*words, "--ray", "127.0.0.1:1"]) == 2
    assert "no Ray cluster at '127.0.0.1:1'" in capsys.readouterr().err
