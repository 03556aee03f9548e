"""None of the bundles of a lab that signs what must not ship passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.core.onnx_operators import read_onnx
from deploy.core.stored_zip import write_stored_zip
from deploy.device import evidence, golden, onnxruntime_engine, steps, suite, validation
from deploy.device.command import main
from tests.deploy.device import dishonest
from tests.deploy.device.dishonest import (
    ATTACKS,
    SUITE_ATTACKS,
    Attack,
    dishonest_bundle,
    honest_bundle,
    loud_is_gated,
    signed,
)
from tests.deploy.device.test_hostile_bundles import keys

THOROUGH = 200


class Lab:
    """Signs, and asks the gate, in a working folder of each bundle's own."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._place, self._monkeypatch = tmp_path, monkeypatch
        self.private, self._public = keys(tmp_path)
        self.folder = tmp_path / "now"

    def fresh(self) -> None:
        self._monkeypatch.chdir(self._place)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self._monkeypatch.chdir(self.folder)

    def gate(self, parts: dict[str, bytes], *more: str) -> tuple[int, dict[str, Any]]:
        write_stored_zip(self.folder / "b.qbundle", parts)
        code = main(["b.qbundle", "--require-signature", str(self._public), *more])
        return code, json.loads(Path("report.json").read_text())


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


def refuse_all(
    files: dict[str, bytes], numbers: range, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> set[int]:
    """Validate them; the exit codes that came."""
    codes, manifests = set(), set()
    for number in numbers:
        lab.fresh()
        what, words, parts = dishonest_bundle(files, number, lab.folder, lab.private)
        code, report = lab.gate(parts)
        said = capsys.readouterr()
        assert code in (1, 2, 3), (what, said)
        assert "unexpected" not in said.err, (what, said.err)
        assert report["bundle"]["authentication"] == "signed by key.pub", (what, said)
        assert words in report["reason"], (what, report["reason"])
        codes.add(code)
        manifests.add(report["bundle"]["manifest_sha256"])
    assert len(manifests) == len(numbers)  # no bundle twice
    return codes


def test_every_attack_of_a_dishonest_lab_is_refused(
    files: dict[str, bytes], lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    found = refuse_all(files, range(2 * len(ATTACKS)), lab, capsys)
    assert {2, 3} <= found


@pytest.mark.hostile
def test_200_bundles_of_a_dishonest_lab(
    files: dict[str, bytes], lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = range(1000, 1000 + THOROUGH)
    refuse_all(files, numbers, lab, capsys)
    for number in numbers:  # and without the attack it is the attack that is missing
        lab.fresh()
        code, report = lab.gate(signed(honest_bundle(files, number), lab.private))
        of_suite = ATTACKS[number % len(ATTACKS)] in SUITE_ATTACKS
        assert code == (1 if of_suite else 0), (number, report["reason"])


def test_the_bundle_without_an_attack_is_measured(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the attacks start from: signed and whole, it fails its gate or, with another, passes."""
    monkeypatch.chdir(tmp_path)
    private, public = keys(tmp_path)
    write_stored_zip(tmp_path / "b.qbundle", signed(loud_is_gated(files), private))
    words = ["b.qbundle", "--require-signature", str(public)]
    assert main(words) == 1
    assert main([*words, "--max-asr", "0.95"]) == 0
    write_stored_zip(tmp_path / "b.qbundle", signed(files, private))
    assert main(words) == 0


def test_a_float_model_that_is_called_somebody_elses(
    files: dict[str, bytes], lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """It passes where nobody asks for integers, and says what it is."""
    lab.fresh()
    parts = dict(files)
    model = onnx.load_from_string(parts[dishonest.MODEL])
    output = next(node for node in model.graph.node if node.output[0] == "logits")
    output.output[0] = "true"
    weights = np.zeros((5, 3, 8, 8), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["images"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["f", "w"], ["c"]),
            helper.make_node("Flatten", ["c"], ["flat"]),
            helper.make_node("Where", ["no", "flat", "true"], ["logits"]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 5), bool), "no"))
    parts[dishonest.MODEL] = model.SerializeToString()
    dishonest.in_manifest(parts, dishonest.adopted)
    parts = signed(parts, lab.private)
    code, report = lab.gate(parts)
    assert code == 0, report["reason"]
    assert "1 layers of the third-party file ran in float" in report["reason"]
    assert "a third-party file, listed as 4-bit codes" in capsys.readouterr().out
    code, report = lab.gate(parts, "--require-integer")
    assert code == 1
    assert "not an integer model: 1 of 4 convolution" in report["reason"]
    dishonest.in_manifest(parts, lambda m: m["models"]["onnxruntime"].pop("target"))
    code, report = lab.gate(signed(parts, lab.private))
    assert code == 2
    assert "holds the operators 'Conv', 'Where'" in report["reason"]


REFUSED_BY_THE_READER = (
    dishonest.weights_outside,  # this ONNX Runtime takes none for bytes; older ones did
    dishonest.a_graph_in_an_attribute,
    dishonest.an_adopted_file_that_draws,
    dishonest.an_attribute_twice,
    dishonest.of_another_format,
    dishonest.patch_on_no_pixel,
)
"""Also the engine, or the file's reader, refuses these: no guard can be taken away."""


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate as it was: any operators, one order, any suite."""

    def anything(data: bytes, *_: str, **__: Any) -> Any:
        return read_onnx(data)

    def nothing(*_: Any, **__: Any) -> None:
        return None

    monkeypatch.setattr(validation, "require_contents", anything)
    monkeypatch.setattr(onnxruntime_engine, "read_model_contents", anything)
    monkeypatch.setattr(golden, "_require_budget", nothing)
    for name in ("check_independence", "check_suite_independence", "require_exact"):
        assert hasattr(golden, name)
        monkeypatch.setattr(steps, name, nothing)
    monkeypatch.setattr(evidence.Counted, "decides", lambda self, most: True)
    monkeypatch.setattr(evidence, "_variety", lambda classes: 1.0)
    monkeypatch.setattr(evidence, "MOST_OF_ONE_LABEL", 1.0)
    monkeypatch.setattr(suite, "distinct_images", lambda images: np.ones(len(images), np.bool_))
    monkeypatch.setattr(
        suite.SuitePatch, "least_changed", lambda self, images: np.zeros(len(self.rows), np.int64)
    )


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize(
    "attack",
    [one for one in ATTACKS if one not in REFUSED_BY_THE_READER],
    ids=lambda one: one.__name__,
)
def test_without_the_guards_an_attack_passes(
    attack: Attack, files: dict[str, bytes], lab: Lab
) -> None:
    """So it is the guards that refuse it, and not that it is badly made."""
    first = ATTACKS.index(attack)
    for number in range(first, first + 12 * len(ATTACKS), len(ATTACKS)):
        lab.fresh()
        *_, parts = dishonest_bundle(files, number, lab.folder, lab.private)
        if lab.gate(parts)[0] == 0:
            return
    pytest.fail("none of 12 passed")
