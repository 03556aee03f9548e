"""Every kind of network in every target with a budget: engines, references, contracts, proofs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.model_contents import suffix_of
from export.budget import EQUAL, Budget, FileBudget, default_budget, departure
from export.lowering import lower
from export.origin import origin_of, require_origin
from export.passes.guarantee import require_guarantees
from export.passes.rule import STANDARD, ContractError
from export.qonnx_execution import execute_qonnx
from export.qonnx_from_network import write_qonnx
from export.reference.qdq import QdqReference
from export.target_proofs import (
    REFERENCE,
    TargetProof,
    TargetProofError,
    prove_qdq,
    prove_qonnx,
)
from export.targets import TARGETS, TENSORRT, Target
from tests.export.test_network_lowering import fields, network
from training.prediction import logits as logits_of
from training.quantize import Network

CASES = [
    *((name, bits) for name in ("resnet8", "mobilenetv2") for bits in (8, 5, 4, 3, 2)),
    ("vgg11", 3),
    ("resnet18", 5),
    ("resnet50", 3),
]
IMAGES = fields(3)


def untrained(bits: int) -> FileBudget:
    """Drawn weights make a chaotic network: one code that float32 moves at a rounding tie reaches
    the logits as several percent. Under 8 bits sums are shorter, and such codes are rare: measured
    0 in every case but one; at 8 bits up to 11% and one image of three in MobileNetV2."""
    logits, flips = (0.4, 0.67) if bits == 8 else (0.1, 0.34)
    return FileBudget(
        engine=Budget(logits=logits, flips=flips),
        network=Budget(logits=None, flips=1.0),
    )


MIXED = {4: {"block0": 8, "block1.second": 2, "block2": 3}}


@cache
def drawn(name: str, bits: int) -> Network:
    return network(name, bits)


def made(built: Network, bits: int, folder: Path, target: str) -> Path:
    qonnx = write_qonnx(built, bits, folder / "q.onnx")
    return lower(qonnx, folder / f"{target}.onnx", target=target).path


def proof_of(built: Network, bits: int, folder: Path, target: str) -> TargetProof:
    logits = logits_of(built, IMAGES, bits)
    return prove_qdq(target, made(built, bits, folder, target), IMAGES, logits, untrained(bits))


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_tensorrt_is_symmetric_int8_and_within_its_budget(
    name: str, bits: int, tmp_path: Path
) -> None:
    proof = proof_of(drawn(name, bits), bits, tmp_path, "tensorrt")
    assert proof.ok, proof.failures
    model = onnx.load(tmp_path / "tensorrt.onnx")
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.INT8
    stored = {t.name: t for t in model.graph.initializer}
    quantizers = [
        n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert len(quantizers) > 20
    for node in quantizers:
        zero = stored[node.input[2]]
        assert zero.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(zero).any()
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    sums = [node for node in model.graph.node if node.op_type == "Add"]
    assert all(makers[name] == "DequantizeLinear" for node in sums for name in node.input)
    assert bool(sums) == (name != "vgg11")


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_qcdq_is_standard_onnx_and_runs_in_onnxruntime_and_openvino(
    name: str, bits: int, tmp_path: Path
) -> None:
    proof = proof_of(drawn(name, bits), bits, tmp_path, "qcdq")
    assert proof.ok, proof.failures
    assert proof.checks == ("onnx.checker, full",)
    ran = {one.computed for one in proof.departures if one.held_to == REFERENCE}
    assert ran == {"onnxruntime-cpu", "openvino-cpu"}
    model = onnx.load(tmp_path / "qcdq.onnx")
    assert [opset.domain for opset in model.opset_import] == [""]
    assert {node.domain for node in model.graph.node} == {""}
    # Its codes are the network's own: float32 rounding alone parts its logits from training's.
    network_departure = proof.departures[-1]
    assert network_departure.largest_difference <= 0.1 * network_departure.largest_logit


@pytest.mark.parametrize("target", ["tensorrt", "qcdq"])
def test_bit_widths_of_single_layers(target: str, tmp_path: Path) -> None:
    built = network("resnet8", 4, mixed=MIXED)
    proof = proof_of(built, 4, tmp_path, target)
    assert proof.ok, proof.failures
    log = lower(tmp_path / "q.onnx", tmp_path / "again.onnx", target=target).log
    assert any(line.startswith("block1.second: Conv, 2-bit weights") for line in log)
    assert any(line.startswith("block2.first: Conv, 3-bit weights") for line in log)


def test_an_unsigned_zero_point_never_reaches_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(drawn("resnet8", 4), 4, tmp_path, "tensorrt")
    model = onnx.load(path)
    require_guarantees(TENSORRT.guarantees, model, "the file")
    planted = next(n for n in model.graph.node if n.op_type == "QuantizeLinear").input[2]
    for tensor in model.graph.initializer:
        if tensor.name == planted:
            tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.uint8), planted))
    with pytest.raises(ContractError, match=rf"symmetric int8.*{planted}.* is uint8"):
        require_guarantees(TENSORRT.guarantees, model, "the file")

    # A pass that writes unsigned codes: the lowering itself refuses its work, and writes nothing.
    wrong: Target = replace(TENSORRT, dialect=STANDARD)
    monkeypatch.setitem(TARGETS, "tensorrt", wrong)
    with pytest.raises(ContractError, match=r"holds only -128…127|symmetric int8"):
        lower(tmp_path / "q.onnx", tmp_path / "wrong.onnx", target="tensorrt")
    first = replace(TENSORRT.rules[0], write=lambda found, layer, context: (None, "nothing"))
    wrong = replace(TENSORRT, rules=(first, *TENSORRT.rules[1:]))
    monkeypatch.setitem(TARGETS, "tensorrt", wrong)
    with pytest.raises(ContractError, match="'image codes' matched but gave no codes"):
        lower(tmp_path / "q.onnx", tmp_path / "wrong.onnx", target="tensorrt")
    assert not (tmp_path / "wrong.onnx").exists()


@pytest.mark.parametrize("target", ["tensorrt", "qcdq"])
def test_a_planted_fault_is_over_the_budget(target: str, tmp_path: Path) -> None:
    built = drawn("resnet8", 4)
    path = made(built, 4, tmp_path, target)
    model = onnx.load(path)
    bias = next(t for t in model.graph.initializer if t.name == "logits.b")
    moved = numpy_helper.to_array(bias).copy()
    moved[0] += 9.0
    bias.CopyFrom(numpy_helper.from_array(moved, bias.name))
    onnx.save(model, path)
    logits = logits_of(built, IMAGES, 4)
    # The file's own reference has the fault as well; the network has not.
    proof = prove_qdq(target, path, IMAGES, logits, default_budget(target, 4, exact=False))
    assert not proof.ok
    with pytest.raises(TargetProofError, match="than in the fake-quantized network"):
        proof.required()


def test_qonnx_executes_and_is_the_same_after_the_cleanup_command(tmp_path: Path) -> None:
    built = drawn("resnet8", 2)
    path = write_qonnx(built, 2, tmp_path / "q.onnx")
    budget = FileBudget(engine=EQUAL, network=untrained(2).engine)
    proof = prove_qonnx(path, IMAGES, logits_of(built, IMAGES, 2), budget)
    assert proof.ok, proof.failures
    assert proof.departures[1].budget == EQUAL
    command = [sys.executable, "-c", "from qonnx.util.cleanup import main; main()"]
    subprocess.run(
        [*command, str(path), f"--out-file={tmp_path / 'clean.onnx'}"], check=True, timeout=120
    )
    counts = [
        sum(node.op_type == "Quant" for node in onnx.load(one).graph.node)
        for one in (path, tmp_path / "clean.onnx")
    ]
    assert counts[0] == counts[1] > 20
    cleaned = execute_qonnx(tmp_path / "clean.onnx", IMAGES[:1])
    assert np.array_equal(cleaned, execute_qonnx(path, IMAGES[:1]))


def test_a_file_that_the_cleanup_breaks_is_told_from_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(path: Path, out: Path) -> Path:
        model = onnx.load(path)
        del model.graph.node[0]
        onnx.save(model, out)
        return out

    built = drawn("resnet8", 2)
    path = write_qonnx(built, 2, tmp_path / "q.onnx")
    budget = FileBudget(engine=EQUAL, network=untrained(2).engine)
    monkeypatch.setattr("export.target_proofs.clean_qonnx", cut)
    said = r"q\.onnx itself is valid, .* qonnx-cleanup for it is not: .* 'centred'"
    with pytest.raises(TargetProofError, match=said):
        prove_qonnx(path, IMAGES, logits_of(built, IMAGES, 2), budget)


def test_the_qdq_reference_agrees_with_the_integer_reference(tmp_path: Path) -> None:
    """Two references of two files that share no operator: the same codes where both are exact."""
    built = network("resnet8", 4, exact=True)
    proof = proof_of(built, 4, tmp_path, "qcdq")
    assert proof.departures[-1].largest_difference == 0.0
    codes = next(QdqReference(tmp_path / "qcdq.onnx").batches(IMAGES))[1]
    assert len(codes) > 15
    assert all(len(np.unique(one)) > 1 for one in codes.values())


def test_a_file_names_its_checkpoint(tmp_path: Path) -> None:
    digest = "0123456789abcdef" * 4
    built = drawn("resnet8", 4)
    qonnx = write_qonnx(built, 4, tmp_path / "q.onnx", checkpoint_sha256=digest)
    for target in TARGETS:
        path = tmp_path / f"{target}{suffix_of(target)}"
        lower(qonnx, path, target=target)
        if path.suffix == ".onnx":
            model = onnx.load(path)
            assert origin_of(model) == digest
            assert not model.metadata_props
        require_origin(path, digest)
        with pytest.raises(InputError, match="was made from the checkpoint 0123456789abcdef…"):
            require_origin(path, "f" * 64)
    require_origin(made(built, 4, tmp_path, "qcdq"), "f" * 64)
    with pytest.raises(ValueError, match="expected a SHA-256"):
        write_qonnx(built, 4, tmp_path / "x.onnx", checkpoint_sha256="yesterday's")


def test_departures_count_and_refuse() -> None:
    ours = np.array([[1.0, 2.0], [5.0, 4.0]], np.float32)
    theirs = np.array([[1.0, 3.0], [4.0, 8.0]], np.float32)
    found = departure(("a", ours), ("b", theirs), Budget(logits=0.5, flips=0.5))
    assert (found.flips, found.largest_difference, found.largest_logit) == (1, 4.0, 8.0)
    assert found.failures == ()
    tight = departure(("a", ours), ("b", theirs), Budget(logits=0.49, flips=0.49))
    assert len(tight.failures) == 2
    assert departure(("a", ours), ("b", ours), EQUAL).failures == ()
    with pytest.raises(InputError, match="do not belong to the same network"):
        departure(("a", ours), ("b", theirs[:1]), EQUAL)
    with pytest.raises(NothingToEvaluate):
        departure(("a", ours[:0]), ("b", theirs[:0]), EQUAL)
    with pytest.raises(InputError, match="NaN"):
        departure(("a", ours), ("b", theirs * np.nan), EQUAL)
    with pytest.raises(InputError, match="expected a budget with a share"):
        Budget(logits=0.1, flips=1.5)
