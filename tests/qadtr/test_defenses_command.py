"""The table of the defenses, whole on scanned digits: real trainings, exports, patches, records."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.files import sha256_of
from deploy.core.outcomes import unpack_bits
from deploy.core.statistics import paired_difference
from deploy.core.strict_json import read_json
from eval.measure.defenses import TABLE
from eval.measure.evaluation_record import EvaluationRecord, read_evaluations
from eval.report.defenses import defenses_markdown
from qadtr.__main__ import main
from training.run_folder import RunFolder

CONFIG = """
name = "small-{row}"
seed = {seed}
[data]
kind = "digits"
size = 16
augment = "none"
[network]
name = "resnet8"
bit_widths = {bits}
exact = true
[training]
epochs = 0.6
batch_size = 32
learning_rate = {rate}
[defense]
name = "{defense}"
{more}
"""


def write_configs(folder: Path) -> None:
    folder.mkdir()
    full = "sizes_px = [6]\npersonal_px = 6"
    for row, defense, more, seed, bits, rate in (
        ("source", "qat", "", 9, "[32]", 0.05),
        ("plain", "qat", "", 1, "[4]", 0.05),
        ("full", "qadtr", full, 1, "[4]", 0.05),
        ("diverging", "qat", "", 1, "[4]", 1e30),
    ):
        text = CONFIG.format(row=row, seed=seed, bits=bits, rate=rate, defense=defense, more=more)
        (folder / f"small-{row}.toml").write_text(text)


def newest(run: Path, kind: str, bits: int) -> EvaluationRecord:
    (found,) = (
        record
        for record in read_evaluations(run / "records")
        if record["patch"]["kind"] == kind
        and record["model"]["bit_width"] == bits
        and record["patch"]["source"]["seed"] == 9
    )
    return found


def done(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was made since the last call, such as "plain: training"."""
    found = [r.message for r in caplog.records if r.name == "eval.stages.defenses"]
    caplog.clear()
    return found


@pytest.mark.slow
def test_rows_are_made_once_compared_in_pairs_and_a_failing_one_stops_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    write_configs(tmp_path / "configs")
    out = tmp_path / "table"
    words = ["defenses", "--configs", str(tmp_path / "configs"), "--family", "small"]
    words += ["--out", str(out)]
    words += ["--rows", "plain", "diverging", "full", "--sizes", "5", "--split", "holdout"]
    words += ["--images", "60", "--own-images", "20", "--made-from", "64"]
    words += ["--steps", "3", "--own-steps", "2"]
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert "diverging failed: the loss" in printed
    made = done(caplog)
    trained = ["source: training", "plain: training", "diverging: training", "full: training"]
    assert [line for line in made if line.endswith(": training")] == trained
    assert [line for line in made if line.endswith(": export")] == ["plain: export", "full: export"]

    table: Any = read_json(out / TABLE)
    cells = {(c["row"], c["origin"], c["column"], c["bits"]): c for c in table["cells"]}
    assert len(cells) == 2 * 2 * 2
    for kind in ("per-image", "universal"):
        for bits in (4,):
            plain, full = (newest(out / row, kind, bits) for row in ("plain", "full"))
            cell = cells["plain", "transfer", f"{kind}-5", bits]
            assert cell["asr"] == plain["asr"]
            assert cell["split"] == "holdout"
            flags = [
                [unpack_bits(r["outcomes"][key], 60) for r in (plain, full)]
                for key in ("eligible", "success")
            ]
            both = flags[0][0] & flags[0][1]
            value, interval = paired_difference(flags[1][0][both], flags[1][1][both])
            over = cell["over_reference"]
            assert (over["n"], over["value"]) == (int(both.sum()), value)
            assert (over["low"], over["high"]) == (interval.low, interval.high)
            assert cells["full", "transfer", f"{kind}-5", bits]["over_reference"] is None
    # QADT-R pastes 6 px and the inner 4; 5 it has not met, and plain QAT has met none.
    assert not any(cell["seen_size"] for cell in cells.values())
    assert np.all([cell["comparable"] is not None for cell in cells.values()])
    assert defenses_markdown(table) in printed

    records = sorted(path.name for path in out.glob("*/records/*.json"))
    assert main([*words, "--rows", "plain", "full"]) == 0
    assert {line.partition(": ")[2] for line in done(caplog)} == {"evaluation"}
    assert sorted(path.name for path in out.glob("*/records/*.json")) == records

    # A second table from the same source: its run is taken as it is, and is the rows' start too.
    again = [*words, "--out", str(tmp_path / "second"), "--rows", "plain"]
    again += ["--source", str(out / "source")]
    again += ["--warm-start", str(out / "source" / "checkpoint.safetensors")]
    assert main(again) == 0
    columns = ("per-image-5", "universal-5")
    assert done(caplog) == [
        *(f"source: {name} patches" for name in columns),
        "plain: training",
        "plain: export",
        *(f"plain: {name} patches" for name in columns),
        *("plain: evaluation", "plain: evaluation"),
    ]
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == [
        TABLE,
        "plain",
        "source",
    ]
    started = RunFolder.open(tmp_path / "second" / "plain").sidecar
    # The name without its folder, which says nothing elsewhere; the hash says which file it was.
    assert started["config"]["training"]["warm_start"] == "…/checkpoint.safetensors"
    assert started["warm_start_sha256"] == sha256_of(out / "source" / "checkpoint.safetensors")
    assert str(tmp_path) not in json.dumps(started)
    assert main(again) == 0
    assert "plain: training" not in done(caplog)
    other_start = [*again[:-1], str(out / "plain" / "checkpoint.safetensors")]
    assert main(other_start) == 1
    assert "trained with another warm_start_sha256" in caplog.text
    assert main([*again, "--source", str(out / "plain")]) == 2
    assert "plain has (4,); give a float run" in capsys.readouterr().err

    other = [*words, "--rows", "plain", "full", "--epochs", "2"]
    assert main(other) == 2
    assert "trained with another training" in capsys.readouterr().err


def test_a_plan_times_real_steps_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_configs(tmp_path / "configs")
    out = tmp_path / "table"
    words = ["defenses", "--configs", str(tmp_path / "configs"), "--family", "small"]
    words += ["--out", str(out)]
    assert main([*words, "--rows", "plain", "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["row", "source", "plain"]
    assert float(lines[2].split()[1]) > 0.0
    assert not out.exists()


def test_nothing_recorded_is_an_error_and_not_an_empty_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_configs(tmp_path / "configs")
    words = ["defenses", "--configs", str(tmp_path / "configs"), "--family", "small"]
    assert main([*words, "--rows", "plain", "--out", str(tmp_path), "--table"]) == 3
    assert "no evaluation" in capsys.readouterr().err
    assert main([*words, "--rows", "absent", "--out", str(tmp_path)]) == 2
    assert "there is no config" in capsys.readouterr().err
