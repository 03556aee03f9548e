"""Where a microcontroller's codes begin to be others than XNNPACK's, in its two builds."""

from __future__ import annotations

from pathlib import Path

from benchmarks.microcontroller import departures
from export.lowering import lower
from export.qonnx_from_network import write_qonnx
from export.reference.litert_arithmetic import MICROCONTROLLER, SINGLE_ROUNDING, XNNPACK
from tests.export.test_network_lowering import fields, network


def test_one_rounding_leaves_the_codes_of_xnnpack(tmp_path: Path) -> None:
    source = write_qonnx(network("resnet8", 2), 2, tmp_path / "q.onnx")
    path = lower(source, tmp_path / "m.tflite", target="litert").path
    none, twice, once = (
        departures(path, fields(2), one) for one in (XNNPACK, MICROCONTROLLER, SINGLE_ROUNDING)
    )
    assert none.keys() == twice.keys() == once.keys() == {
        *("CONV_2D", "CONV_2D of the image", "CONV_2D to narrow codes"),
        *("ADD", "ADD to narrow codes", "MEAN"),
    }  # fmt: skip
    assert all(count > 0 for _, count in once.values())
    assert sum(different for different, _ in none.values()) == 0
    assert twice["ADD"][0] == 0
    assert twice["CONV_2D of the image"][0] > 10
    assert twice["CONV_2D"][0] > 100
    assert sum(different for different, _ in once.values()) <= 2
