"""CSV, JSON, LaTeX and figures: the same numbers as the page, readable by other tools."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.core.errors import NothingToEvaluate
from deploy.core.records import read_record, read_records, write_record
from deploy.core.table import Table
from eval.report.flat import flat_rows, rows_as_csv, rows_as_json
from eval.report.latex import latex_table
from eval.report.rows import tables_from_records
from eval.stages.report import DataFiles, write_data
from qadtr.__main__ import main
from tests.eval.report.conftest import digest_of

Record = dict[str, Any]
MakeRecord = Callable[..., Record]

RESULTS = Path(__file__).resolve().parents[3] / "results" / "cifar10-resnet8-cpu"


def test_a_row_for_each_result_with_numbers_as_numbers(records: list[Record]) -> None:
    rows = flat_rows(records)
    assert len(rows) == 16  # two networks, four bit-widths, two patches
    read = list(csv.DictReader(io.StringIO(rows_as_csv(rows).decode())))
    (row,) = (
        one for one in read if (one["defense"], one["bits"], one["attack"]) == ("qat", "2", "lavan")
    )
    assert (row["asr_k"], row["asr_n"], float(row["asr"])) == ("46", "100", 0.46)
    assert float(row["asr_low"]) < 0.46 < float(row["asr_high"])
    assert row["name"] == "resnet8 plain QAT"
    assert row["comparability"] == "baseline"
    assert row["commit"].startswith("0123abc")
    assert row["target"] == ""  # not measured, not 0
    saved = json.loads(rows_as_json(rows))
    assert saved["format"] == "qadtr-results"
    assert [one["asr"] for one in saved["rows"]] == [float(one["asr"]) for one in read]


def test_a_newer_evaluation_replaces_and_adaptive_ones_are_rows(evaluation: MakeRecord) -> None:
    first, second = evaluation(asr=10), evaluation(asr=20)
    (row,) = flat_rows([first, second])
    assert row["asr_k"] == 20
    targets = [row["target"] for row in flat_rows([first, evaluation(asr=30, target=1)])]
    assert targets == [None, 1]
    found = flat_rows(read_records(RESULTS / "plain" / "records"))
    worst = [row for row in found if row["kind"] == "adaptive" and row["law"] == "worst"]
    assert worst
    assert all("/" in row["bits"] and row["whitebox"] for row in worst)
    with pytest.raises(NothingToEvaluate, match="qadtr eval"):
        flat_rows([])


def test_a_patch_that_was_made_on_the_network_and_others_is_white_box(
    evaluation: MakeRecord,
) -> None:
    on_others, on_it = evaluation(patch="1"), evaluation(patch="2")
    for record, members in ((on_others, ["a" * 64]), (on_it, ["a" * 64, digest_of("qat")])):
        source = record["payload"]["patch"]["source"]
        source |= {"checkpoint_sha256": None, "members": members}
    assert [row["whitebox"] for row in flat_rows([on_others, on_it])] == [False, True]
    (table,) = tables_from_records([on_others, on_it])
    (row,) = table.rows
    assert sorted(cell.whitebox for cell in row.cells.values()) == [False, True]


def test_a_smaller_run_of_the_same_attack_replaces_nothing(evaluation: MakeRecord) -> None:
    def of(asr: int, images: int) -> Record:
        record = evaluation(asr=asr, patch=f"{asr}", source_checkpoint=digest_of("qat"))
        record["payload"]["outcomes"]["n"] = images
        return record

    for records, rate in (([of(20, 8), of(30, 8)], 0.3), ([of(20, 8), of(30, 4)], 0.2)):
        (table,) = tables_from_records(records)
        (cell,) = table.rows[0].cells.values()
        assert (cell.whitebox, cell.asr["value"]) == (True, rate)


def test_a_latex_table_escapes_what_latex_acts_on() -> None:
    table = Table(
        title="5% of $x_1$",
        columns=("network", "ASR"),
        rows=[("a & b", "46.0%† (36.6–55.7)"), ("a & b", "±1 × 2"), (r"c\d", "{~^}#")],
        align="lr",
        grouped=True,
        notes=["a_note"],
    )
    text = latex_table(table)
    assert r"\caption{5\% of \$x\_1\$}" in text
    assert text.count(r"a \& b") == 1
    assert r"46.0\%\textdagger{} (36.6--55.7) \\" in text
    assert r"$\pm$1 $\times$ 2" in text
    assert r"c\textbackslash{}d" in text
    assert r"\{\textasciitilde{}\textasciicircum{}\}\#" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{rule}") == 1


def test_figures_are_real_and_the_same_again(records: list[Record], tmp_path: Path) -> None:
    first = write_data(records, DataFiles(figures=tmp_path / "a"))
    again = write_data(records, DataFiles(figures=tmp_path / "b"))
    assert sorted(path.suffix for path in first) == [".pdf", ".pdf", ".svg", ".svg"]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        if one.suffix == ".pdf":
            assert one.read_bytes().startswith(b"%PDF-")
        else:
            text = " ".join(ET.parse(one).getroot().itertext())
            assert "resnet8 plain QAT" in text
            assert "attack success rate" in text


def test_the_command_writes_each_form_and_never_a_page_by_another_name(
    records: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for record in records:
        write_record(run / "records", record["kind"], record["payload"], record["provenance"])
    words = ["report", str(run), "--csv", str(tmp_path / "r.csv"), "--json", "-"]
    assert main([*words, "--latex", str(tmp_path / "r.tex")]) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)["rows"]) == 16
    assert str(tmp_path / "r.csv") in printed.err.splitlines()
    assert (tmp_path / "r.csv").read_text().startswith("kind,name,run,seed,")
    assert r"\begin{tabular}" in (tmp_path / "r.tex").read_text()
    assert main(["report", str(run), "--out", str(tmp_path / "report.csv")]) == 4
    assert "--csv" in capsys.readouterr().err
    assert not (tmp_path / "report.csv").exists()
    assert main(["report", str(run), "--csv", "-", "--json", "-"]) == 4
    assert "only one" in capsys.readouterr().err


def test_record_files_have_names_that_people_read(evaluation: MakeRecord, tmp_path: Path) -> None:
    record = evaluation(bits=4, name="lavan 8/px", engine="onnxruntime-cpu")
    path = write_record(tmp_path, "evaluation", record["payload"], record["provenance"])
    assert path.name.startswith("evaluation-resnet8-qat-4bit-onnxruntime-cpu-lavan-8-px-")
    assert read_record(path)["payload"] == record["payload"]
    # A file of before has the kind and the hash alone.
    short = path.with_name(f"evaluation-{path.stem[-16:]}.json")
    path.rename(short)
    assert read_record(short)["payload"] == record["payload"]
    long = evaluation(name="x" * 400)
    path = write_record(tmp_path, "evaluation", long["payload"], long["provenance"])
    assert len(path.name) < 200
