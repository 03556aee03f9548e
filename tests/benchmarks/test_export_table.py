"""Records of each target, made by the command on few images, and the rows that they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.export_cases import CASES
from benchmarks.export_measures import Subject, engine_build
from benchmarks.export_rows import (
    BUILD_KIND,
    KIND,
    LITERT_KIND,
    TARGET_KIND,
    builds_table,
    files_table,
    litert_table,
    targets_table,
)
from benchmarks.export_table import main
from benchmarks.schemas import ExportLiteRtRecord
from deploy.core.records import read_records
from export.qonnx_from_network import write_qonnx
from tests.export.test_network_lowering import network
from tests.training.data.test_data_cifar10 import write_official
from training.record_types import payloads


@pytest.mark.slow
def test_every_target_becomes_a_record_and_is_not_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_official(tmp_path)
    words = ["--cifar10", str(tmp_path), "--records", str(tmp_path / "results"), "--images", "8"]
    words += ["--networks", "resnet8", "--bits", "4"]
    words += ["--targets", "onnxruntime", "litert", "qcdq", "tensorrt", "qonnx"]
    assert main(words) == 0
    folder = tmp_path / "results" / "export"
    integer, others = read_records(folder, KIND), read_records(folder, TARGET_KIND)
    litert = read_records(folder, LITERT_KIND)
    assert len(capsys.readouterr().out.splitlines()) == len(integer) + len(litert) + len(others)
    payloads(litert, LITERT_KIND, ExportLiteRtRecord)
    for row in (table := litert_table(litert)).rows:
        assert table.columns[4] == "differ from the references"
        assert str(row[4]).startswith("0 of ") and ", 0 of " in str(row[4])
        assert str(row[7]).startswith("0 on ")
    table = files_table(integer)
    assert len(table.rows) == 3  # two trained networks, and the drawn one
    assert table.columns[5] == "differ from the reference"
    assert {str(row[5]).split()[0] for row in table.rows} == {"0"}
    table = targets_table(others)
    assert {(row[2], str(row[4]).split("-")[0]) for row in table.rows} >= {
        ("qcdq", "openvino"),
        ("qcdq", "onnxruntime"),
        ("tensorrt", "onnxruntime"),
        ("qonnx", "qonnx executor"),
    }
    assert main(words) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.rtx
def test_a_build_is_a_row_of_the_table(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.network == "resnet8")
    subject = Subject(
        case=case,
        network=network("resnet8", 4),
        bits=4,
        qonnx=write_qonnx(network("resnet8", 4), 4, tmp_path / "qonnx.onnx"),
        images=np.zeros((2, 3, 32, 32), np.uint8),
        labels=np.zeros(2, np.int64),
    )
    payload: dict[str, Any] = {"network": "resnet8", "input_px": 32, "bits": 4, "trained": True}
    payload |= engine_build(subject, "tensorrt-rtx")
    assert payload["kinds"] == {"convolution": 9, "matrix product": 1, "pool": 0}
    assert payload["tensors"]["int8"] >= 8 and "never run on hardware" in payload["note"]
    older = {"kind": BUILD_KIND, "payload": {**payload, "engine_bytes": 1}}
    (row,) = builds_table([older, {"kind": BUILD_KIND, "payload": payload}]).rows
    assert list(row[:3]) == ["resnet8 (32 px)", "4", "9 int8"]
    assert row[-1] == f"{payload['onnx_bytes']:,} → {payload['engine_bytes']:,}"
