"""A record of a build, and the row that it becomes."""

from __future__ import annotations

import pytest

from benchmarks.engine_builds import CASES, HEADER, build_rows, measure
from tests.export.test_network_lowering import network


@pytest.mark.rtx
def test_a_build_is_a_row_of_the_table() -> None:
    case = next(case for case in CASES if case.network == "resnet8")
    payload = measure(case, network("resnet8", 4), 4)
    assert payload["kinds"] == {"convolution": 9, "matrix product": 1, "pool": 0}
    assert payload["tensors"]["int8"] >= 8 and "never run on hardware" in payload["note"]
    older = {"payload": {**payload, "engine_bytes": 1}}
    (row,) = build_rows([older, {"payload": payload}])
    assert len(row) == len(HEADER)
    assert row[:3] == ["resnet8 (32 px)", "4", "9 int8"]
    assert row[-1] == f"{payload['onnx_bytes']:,} → {payload['engine_bytes']:,}"
