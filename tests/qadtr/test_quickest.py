"""`qadtr doctor RUN`: the quickest engine that this machine has for a run's files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import EngineUnavailable, InputError
from deploy.engine import ENGINES
from qadtr.__main__ import main
from qadtr.quickest import Quickest, Ratio, exported_bit_widths, quickest_engine, quickest_findings
from tests.deploy.tensorrt.qdq_files import exported
from training.run_folder import RunFolder

COMMITTED = Path(__file__).resolve().parents[2] / "results/cifar10-resnet8-cpu/plain"
TIMED = {"onnxruntime", "openvino"}
"""Engines whose package the tests need on any processor."""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with small 4-bit files of three targets."""
    folder = tmp_path / "a run"
    folder.mkdir()
    for name in ("checkpoint.json", "checkpoint.safetensors"):
        shutil.copy(COMMITTED / name, folder)
    (folder / "export").mkdir()
    for target in ("onnxruntime", "qcdq", "tensorrt"):
        exported(folder / "export", target=target)
    (folder / "export" / "onnxruntime-32.onnx").write_bytes(b"no integer file")
    return RunFolder.open(folder)


def test_every_engine_is_timed_or_has_its_reason(run: RunFolder) -> None:
    assert exported_bit_widths(run) == (4,)
    found = quickest_engine(run, 4)
    timed, refused = set(found.image_ms), set(found.refused)
    assert timed >= TIMED
    assert timed | refused | set(found.without_file) == set(ENGINES)
    assert found.without_file == ("litert",)
    times = list(found.image_ms.values())
    assert times == sorted(times) and times[0] > 0
    assert set(found.ratios) == timed - {found.engine}
    assert all(one.low <= one.middle <= one.high for one in found.ratios.values())
    assert found.turns >= 5
    assert all("\n" not in reason for reason in found.refused.values())


def test_what_is_slower_is_not_recommended(run: RunFolder) -> None:
    """The file of one engine gets a thousand times the work, to the same logits."""
    _slow_down(run.model_file(4, "openvino"))
    found = quickest_engine(run, 4)
    assert found.engine != "openvino"
    assert found.ratios["openvino"].low > 2
    assert "times as fast as openvino" in found.sentence()


def _slow_down(path: Path) -> None:
    """Put convolutions before the first node whose result, all zeros, is added to the image."""
    model = onnx.load(path)
    image = model.graph.input[0].name
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == image:
                node.input[place] = "slow.image"
    weights = {"up": (64, 3, 1, 1), "wide": (64, 64, 7, 7), "down": (3, 64, 1, 1)}
    for name, shape in weights.items():
        zeros = np.zeros(shape, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(zeros, f"slow.{name}"))
    nodes = [
        helper.make_node("Cast", [image], ["slow.f"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["slow.f", "slow.up"], ["slow.0"]),
        *[
            helper.make_node("Conv", [f"slow.{i}", "slow.wide"], [f"slow.{i + 1}"], pads=[3] * 4)
            for i in range(4)
        ],
        helper.make_node("Conv", ["slow.4", "slow.down"], ["slow.zeros"]),
        helper.make_node("Cast", ["slow.zeros"], ["slow.u8"], to=TensorProto.UINT8),
        helper.make_node("Add", [image, "slow.u8"], ["slow.image"]),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    onnx.save(model, path)


def test_the_sentence_says_by_how_much_and_where_there_is_no_difference() -> None:
    found = Quickest(
        bits=4,
        threads=2,
        image_ms={"litert": 0.1, "openvino": 0.102, "onnxruntime": 0.15},
        ratios={"openvino": Ratio(0.98, 1.02, 1.05), "onnxruntime": Ratio(1.4, 1.5, 1.6)},
        refused={},
        without_file=(),
        turns=15,
    )
    assert found.sentence() == (
        "litert, 0.1 ms an image (2 threads, batch 1): no faster than openvino (0.98 to 1.05), "
        "1.50 times as fast as onnxruntime (1.40 to 1.60); quartiles of 15 turns"
    )


def test_what_cannot_be_timed_is_one_line(run: RunFolder) -> None:
    with pytest.raises(InputError, match=r"no exported model at 8 bits.*qadtr export .*--bits 8"):
        quickest_engine(run, 8)
    with pytest.raises(InputError, match="has no bit-width 3"):
        quickest_engine(run, 3)
    for engine in TIMED:
        run.model_file(4, engine).unlink()
    with pytest.raises(
        EngineUnavailable, match=r"no engine on this machine runs a 4-bit file.*tensorrt: "
    ):
        quickest_engine(run, 4)
    run.model_file(4, "tensorrt").unlink()
    with pytest.raises(InputError, match=r"no exported model at 8 5 4 2 bits"):
        exported_bit_widths(run)


def test_the_findings_name_the_command_that_makes_the_other_files(run: RunFolder) -> None:
    first, *others = quickest_findings(run, 4)
    assert (first.level, first.subject) == ("ok", "quickest, 4 bits")
    assert {finding.level for finding in others} == {"note"}
    assert others[-1].text.endswith("--bits 4 --target litert makes it")
    assert f"'{run.path}'" in others[-1].text


def test_by_the_command(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(run.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("quickest, 4 bits" in line for line in lines) == 1
    assert main(["doctor"]) == 0
    assert "quickest" not in capsys.readouterr().out
    assert main(["doctor", "--bits", "4"]) == 4
    assert "--bits has no effect without a RUN" in capsys.readouterr().err
    assert main(["doctor", str(run.path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
