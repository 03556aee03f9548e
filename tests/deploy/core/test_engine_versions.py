"""Which ONNX Runtime a file needs, and what is said where it is too old."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deploy.bundle_contents import BundleContents
from deploy.core.engine_versions import oldest_onnxruntime, version_key, why_too_old
from deploy.core.errors import EngineUnavailable, InputError
from deploy.core.onnx_operators import OnnxFile, OnnxNode, read_onnx
from deploy.device.bundle_reading import Bundle
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine, require_its_numpy
from deploy.engine import open_engine
from export.storage import versions_for
from qadtr.diagnosis import engine_findings, provider_finding
from tests.deploy.device.conftest import contents, files

__all__ = ["contents", "files"]  # fixtures


def model_with(data_type: int) -> onnx.ModelProto:
    """A file whose only weights are of a type, declared as export declares it."""
    weights = helper.make_tensor("w", data_type, [4], [0, 1, 0, 1])
    nodes = [
        helper.make_node("Cast", ["w"], ["w8"], to=TensorProto.INT8),
        helper.make_node("QLinearConv", ["w8"] * 8, ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [4])],
        [weights],
    )
    model = helper.make_model(graph)
    opset, model.ir_version = versions_for(model)
    model.opset_import[0].version = opset
    return model


@pytest.mark.parametrize(
    ("data_type", "oldest"),
    [
        (TensorProto.INT8, "1.15.1"),
        (TensorProto.INT4, "1.23.0"),
        (TensorProto.INT2, "1.24.1"),
    ],
)
def test_a_file_needs_the_version_of_its_narrowest_weights(data_type: int, oldest: str) -> None:
    found = read_onnx(model_with(data_type).SerializeToString())
    assert oldest_onnxruntime(found) == oldest
    assert why_too_old(found, oldest) is None
    assert why_too_old(found, "1.31.1") is None
    older = f"1.{int(oldest.split('.')[1]) - 1}.9"
    said = why_too_old(found, older)
    assert said is not None and f"onnxruntime {oldest} or newer" in said
    assert ("--storage int8" in said) == (data_type != TensorProto.INT8)


@pytest.mark.parametrize(
    ("ir_version", "oldest"),
    [(0, "1.15.1"), (9, "1.15.1"), (10, "1.18.1"), (11, "1.23.0"), (13, "1.24.1")],
)
def test_a_file_needs_a_version_that_reads_its_format(ir_version: int, oldest: str) -> None:
    assert oldest_onnxruntime(OnnxFile(tensors={("w", 3)}, ir_version=ir_version)) == oldest


def test_a_file_needs_a_version_with_kernels_for_its_operators() -> None:
    nodes = [
        OnnxNode(operator=name, inputs=(), outputs=(), cast_to=None)
        for name in ("QLinearConv", "SpaceToDepth")
    ]
    found = OnnxFile(nodes=nodes, tensors={("w", 3)}, ir_version=8)
    assert oldest_onnxruntime(found) == "1.28.0"
    said = why_too_old(found, "1.27.0")
    assert said is not None and "SpaceToDepth" in said and "--storage int8" in said
    assert (
        oldest_onnxruntime(OnnxFile(nodes=nodes[1:], tensors={("w", 1)}, ir_version=8)) == "1.15.1"
    )


def test_versions_are_compared_as_numbers() -> None:
    assert version_key("1.9.0") < version_key("1.23.0") == version_key("1.23.0.dev2+cpu")
    assert version_key("unknown") == ()


def test_the_manifest_says_it_of_onnxruntime(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / name).write_bytes(data)
    with Bundle(tmp_path / "b") as bundle:
        model = bundle.manifest.models["onnxruntime"]
        found = read_onnx(bundle.file(model.file).read_bytes())
    assert model.oldest_engine == oldest_onnxruntime(found) == "1.23.0"


def test_an_engine_that_is_too_old_is_told_from_a_damaged_file(
    contents: BundleContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real engine refuses the file; its version alone is made up."""
    model = onnx.load(contents.models["onnxruntime"].path)
    next(n for n in model.graph.node if n.op_type == "Cast").attribute[0].i = 99
    broken = tmp_path / "model.onnx"
    onnx.save(model, broken)
    with pytest.raises(InputError, match=r"does not load.*copy it again"):
        OnnxRuntimeEngine(broken)
    monkeypatch.setattr("onnxruntime.__version__", "1.17.3")
    with pytest.raises(EngineUnavailable, match=r"1\.17\.3 is too old.*1\.23\.0.*--storage int8"):
        OnnxRuntimeEngine(broken)
    with OnnxRuntimeEngine(contents.models["onnxruntime"].path) as engine:
        assert np.isfinite(engine.run(contents.golden_inputs)).all()  # what runs is not refused


def test_numpy_2_beside_an_old_onnxruntime_is_named(
    contents: BundleContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version
    monkeypatch.setattr(
        "importlib.metadata.version",
        lambda name: "1.17.3" if name == "onnxruntime" else real(name),
    )
    require_its_numpy.cache_clear()
    words = "onnxruntime 1.17.3 was compiled for numpy 1"
    with pytest.raises(EngineUnavailable, match=words):
        OnnxRuntimeEngine(contents.models["onnxruntime"].path)
    for finding in (
        provider_finding({"onnxruntime": "1.17.3"}),
        *engine_findings({"onnxruntime": "1.17.3"})[:1],
    ):
        assert finding.level == "problem" and words in finding.text
    monkeypatch.setattr("numpy.__version__", "1.26.4")
    require_its_numpy.cache_clear()
    require_its_numpy()


@pytest.mark.parametrize("raised", ["RuntimeError('no home')", "OSError()", "SystemExit(3)"])
def test_a_package_that_fails_on_import_stops_neither_doctor_nor_the_message(
    raised: str, contents: BundleContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino.py").write_text(f"raise {raised}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "openvino", raising=False)
    findings = {one.subject: one for one in engine_findings({"openvino": "2026.4.1"})}
    assert findings["engine openvino"].level == "problem"
    assert "does not load" in findings["engine openvino"].text
    if "SystemExit" not in raised:
        path = contents.models["onnxruntime"].path
        with pytest.raises(EngineUnavailable, match="needs the package openvino"):
            open_engine("openvino", path)


@pytest.mark.parametrize(
    ("version", "key"),
    [
        ("1.23.0", (1, 23)),
        ("1.23", (1, 23)),
        ("1.23.0.dev20260101", (1, 23)),
        ("1.23.2+cuda12", (1, 23, 2)),
        ("1.24.0rc1", (1, 24)),
        ("v1.24.4", (1, 24, 4)),
        ("2", (2,)),
        ("", ()),
        ("nightly", ()),
        ("1." + "9" * 5000, (1, 999999999)),
    ],
)
def test_versions_in_every_spelling(version: str, key: tuple[int, ...]) -> None:
    assert version_key(version) == key
    assert (why_too_old(OnnxFile(tensors={("w", 22)}), version) is None) is (
        not key or key >= (1, 23)
    )
