"""The script for a machine with a GPU, as far as the CPU goes; on a GPU it was never run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import Settings, Step, everything, main, run_step, steps_of
from benchmarks.records import report
from deploy.engine import ENGINES

SMALL = Settings(
    device="cpu",
    network="resnet8",
    batch=12,
    rounds=2,
    epochs=2,
    engines=("litert", "onnxruntime", "tensorrt"),
    repeats=3,
    tests=("tests/test_schemas.py", "--collect-only"),
)

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


@no_gpu
@pytest.mark.parametrize("words", [[], ["--check"], ["--json", "gpu.json"]])
def test_without_a_gpu_it_refuses_in_one_line(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    found = capsys.readouterr()
    assert found.out == ""
    (line,) = found.err.splitlines()
    assert line.startswith("benchmarks.gpu needs a GPU that torch can use: ")
    assert not list(tmp_path.iterdir())


def test_every_engine_has_its_step_and_its_gate_and_the_tests_come_last(tmp_path: Path) -> None:
    settings = Settings()
    names = [step.name for step in steps_of(settings, tmp_path)]
    for engine in ENGINES:
        assert names.index(f"engine {engine}") < names.index(f"gate {engine}")
    assert names[:5] == ["training steps", "train", "patch", "export", "bundle"]
    assert names[-1] == "tests"
    (timed, *_), last = list(steps_of(settings, tmp_path)), list(steps_of(settings, tmp_path))[-1]
    assert {"512", "resnet20", "cuda"} <= set(timed.words)
    assert "plain QAT, products in bfloat16" in timed.words
    assert last.words == ("pytest", "-q", "-m", "gpu")
    assert settings.limit_s < 600


def test_a_step_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    step = Step(
        name="hang", words=("timeit", "-n1", "-r1", "-s", "import time", "time.sleep(60)"),
        limit_s=1.5, folder=tmp_path,
    )  # fmt: skip
    start = time.monotonic()
    found = run_step(step, step.limit_s)
    assert found["outcome"] == "too slow"
    assert time.monotonic() - start < 30
    assert run_step(step, 0.5)["outcome"] == "no time left"
    failing = Step(name="no", words=("no_such_module",), limit_s=60, folder=tmp_path)
    found = run_step(failing, 60)
    assert found["outcome"] == "failed"
    assert "no_such_module" in found["said"]


@pytest.mark.slow
def test_all_of_it_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = everything(SMALL, tmp_path)
    outcomes = {one["step"]: one["outcome"] for one in record["processes"]}
    assert set(outcomes.values()) <= {"done", "not here"}, outcomes
    rows: dict[str, dict[str, Any]] = {row["engine"]: row for row in record["rows"]}
    assert set(rows) == set(SMALL.engines)
    for name, row in rows.items():
        if row["runs"]:
            assert row["gate"] == "done" and row["flips"] <= 1 and row["images_per_s_at_64"] > 0
        else:
            assert row["gate"] is None and row["reason"]
            assert outcomes[f"engine {name}"] == outcomes[f"gate {name}"] == "not here"
    assert all(rows[name]["largest_difference"] == 0 for name in ("onnxruntime", "litert"))
    assert {row["row"] for row in record["trainings"]} == {
        "plain QAT", "plain QAT, products in bfloat16", "QADT-R, default",
    }  # fmt: skip
    report(record, tmp_path / "gpu.json")
    assert json.loads((tmp_path / "gpu.json").read_text())["provenance"]
    assert "images per s at 64" in capsys.readouterr().out


def test_all_steps_are_in_the_record_when_nothing_works(tmp_path: Path) -> None:
    """No time at all: every step says so, and the record is whole."""
    record = everything(Settings(device="cpu", limit_s=0.0), tmp_path)
    assert {one["outcome"] for one in record["processes"]} == {"no time left"}
    assert record["rows"] == [] and record["trainings"] == []
