"""`qadtr eval --adaptive --random-precision` on a real DWQ run, and that nothing is made twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.core.outcomes import unpack_bits
from deploy.core.records import read_records
from eval.measure.adaptive.adaptive_record import KIND, adaptive_from_records
from qadtr.__main__ import main

pytestmark = pytest.mark.slow

CONFIG = """
name = "dwq"
seed = 3

[data]
kind = "digits"
augment = "none"

[network]
name = "resnet8"
bit_widths = [8, 4]

[training]
epochs = 2
batch_size = 32

[defense]
name = "dwq"
bits = [8, 4]
attack = "patch"
inner_steps = 1
"""


def test_random_precision_of_a_dwq_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = tmp_path / "dwq.toml", tmp_path / "dwq"
    config.write_text(CONFIG)
    assert main(["train", str(config), "--out", str(run)]) == 0
    capsys.readouterr()
    words = ["eval", str(run), "--adaptive", "--random-precision", "--images", "24"]
    words += ["--set", "steps=4", "--set", "most_draws=4", "--set", "size_px=10"]
    assert main([*words, "--engine", "nonsense"]) == 2
    assert "unknown engine 'nonsense'" in capsys.readouterr().err
    assert main(words) == 0
    printed = capsys.readouterr().out

    records = adaptive_from_records(read_records(run / "records", KIND))
    assert sorted(record["law"] for record in records) == ["fixed", "fixed", "random", "worst"]
    (random,) = (record for record in records if record["law"] == "random")
    assert random["model"]["defense"] == "dwq"
    assert random["model"]["bit_widths"] == [8, 4]
    # K is doubled until the ASR over fresh draws stands still, or to its largest.
    asked = [point["draws"] for point in random["draws"]]
    assert asked in ([1, 2], [1, 2, 4])
    last, before = (100.0 * random["draws"][i]["asr"]["value"] for i in (-1, -2))
    assert random["draws_enough"] == (abs(last - before) < 1.0)
    # Scored on five fresh draws of every image that was attacked, while K is chosen.
    assert random["draws"][0]["asr"]["n"] % 5 == 0
    assert 0 < random["asr"]["n"] <= 24
    assert unpack_bits(random["outcomes"]["eligible"], 24).sum() == random["asr"]["n"]
    assert random["on_engine"] is None
    (worst,) = (record for record in records if record["law"] == "worst")
    fixed = [record for record in records if record["law"] == "fixed"]
    won = [
        unpack_bits(record["outcomes"]["success"], 24)
        & unpack_bits(worst["outcomes"]["eligible"], 24)
        for record in fixed
    ]
    assert worst["asr"]["k"] == (won[0] | won[1]).sum()
    assert all(record["randomness"] == {"logits": False, "gradients": False} for record in fixed)
    row = next(line for line in printed.splitlines() if "random of 8, 4" in line)
    assert f"K = {asked[-1]}" in row

    # The report takes what there is: no engine ran, and the searches have left their files.
    assert list((run / "patches").glob(".adaptive-*"))
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert "random of 8, 4" in (tmp_path / "report.html").read_text()
    capsys.readouterr()

    # Without the searches' resume files: known records and patches are enough.
    for path in (run / "patches").glob(".adaptive-*"):
        path.unlink()
    before_files = sorted(path.name for path in run.rglob("*") if path.is_file())
    assert main(words) == 0
    assert capsys.readouterr().out == printed
    assert sorted(path.name for path in run.rglob("*") if path.is_file()) == before_files
