"""docs/export.md says which operators stop hls4ml's front end: whether they still do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from export.qonnx_from_network import write_qonnx
from tests.export.test_network_lowering import network

pytestmark = pytest.mark.hls4ml

SCRIPT = Path(__file__).with_name("hls4ml_front_end.py")


@pytest.mark.parametrize(
    ("exact", "stopped"),
    [
        (False, ["MatMul MatMul_0: cannot move the scales ['none', '10 distinct'] behind it",
                 "Conv Conv_1: cannot move the scales ['one', '16 distinct'] behind it"]),
        (True, ["Conv Conv_0: cannot move the scales ['none', "]),
    ],
    ids=["trained scales", "powers of two"],
)  # fmt: skip
def test_hls4ml_stops_where_the_documents_say(
    exact: bool, stopped: list[str], tmp_path: Path
) -> None:
    path = write_qonnx(network("resnet8", 4, exact=exact), 4, tmp_path / "qonnx.onnx")
    done = subprocess.run(
        [os.environ["HLS4ML_PYTHON"], str(SCRIPT), str(path)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "hls4ml 1.3.0" in done.stdout
    assert "stopped by IndexError: list index out of range" in done.stdout
    for line in stopped:
        assert line in done.stdout
