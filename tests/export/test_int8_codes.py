"""A network of ``codes = "int8"`` has the same codes in TensorRT's file as in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export.budget import EQUAL, default_budget
from export.fake_quantized import FakeQuantized
from export.lowering import lower
from export.parity import check_parity
from export.qonnx_from_network import write_qonnx
from export.reference.qdq import QdqReference
from export.target_proofs import prove_qdq
from tests.export.test_any_network import CASES, OWN, images_of
from tests.export.test_network_lowering import fields as coloured
from tests.export.test_network_lowering import network as drawn
from tests.training.quantize.networks import network, planned, settle
from training.prediction import logits
from training.quantize import Network

BITS = (8, 4, 2)


def calibrated(name: str) -> Network:
    images = images_of(name, 64, seed=1)
    torch.manual_seed(0)
    module = OWN[name]() if name in OWN else network(name)
    return planned(settle(module, images), images, 32, *BITS, codes="int8")


@pytest.mark.parametrize("name", CASES)
def test_every_code_of_tensorrts_file_is_that_of_training(name: str, tmp_path: Path) -> None:
    built, images = calibrated(name), images_of(name, 12, seed=2)
    for bits in BITS:
        source = write_qonnx(built, bits, tmp_path / f"{bits}.onnx")
        path = lower(source, tmp_path / "tensorrt.onnx", target="tensorrt").path
        _, ours = FakeQuantized(built, bits)(images)
        _, theirs = next(QdqReference(path).batches(images))
        compared = [layer for layer in ours if f"{layer}.q" in theirs]
        assert compared
        # What only changes place has a quantizer in the file, and no row of its own in training.
        for layer in compared:
            flips = np.count_nonzero(ours[layer] != theirs[f"{layer}.q"])
            assert flips == 0, (bits, layer)
            assert ours[layer].min() >= -128 and ours[layer].max() <= 127, (bits, layer)
        found = logits(built, images, bits)
        np.testing.assert_allclose(
            QdqReference(path).run(images), found, rtol=0.0, atol=1e-5 * np.abs(found).max()
        )


@pytest.mark.parametrize("name", CASES)
def test_the_all_integer_file_holds_them_too(name: str, tmp_path: Path) -> None:
    built, images = calibrated(name), images_of(name, 12, seed=2)
    for bits in (8, 2):
        source = write_qonnx(built, bits, tmp_path / f"{bits}.onnx")
        path = lower(source, tmp_path / "i.onnx").path
        parity = check_parity(path, images, fake_quantized=FakeQuantized(built, bits))
        assert (parity.first_departure, parity.logits_different) == (None, 0)
        assert all(not layer.flips for layer in parity.layers)


@pytest.mark.parametrize("bits", BITS)
def test_an_exact_network_is_tensorrts_file_to_the_last_bit(bits: int, tmp_path: Path) -> None:
    built, images = drawn("resnet8", bits, exact=True, codes="int8"), coloured(6)
    source = write_qonnx(built, bits, tmp_path / "q.onnx")
    path = lower(source, tmp_path / "tensorrt.onnx", target="tensorrt").path
    budget = default_budget("tensorrt", bits, exact=True, codes="int8")
    assert budget.network == EQUAL
    proof = prove_qdq("tensorrt", path, images, logits(built, images, bits), budget)
    assert proof.departures[-1].failures == ()
    _, ours = FakeQuantized(built, bits)(images)
    _, theirs = next(QdqReference(path).batches(images))
    assert all(np.array_equal(ours[layer], theirs[f"{layer}.q"]) for layer in ours)
    assert max(int(one.max()) for one in ours.values()) == 127  # the stream uses what there is


def test_uint8_codes_are_not_within_that_budget(tmp_path: Path) -> None:
    """What the setting is for: the same network without it departs from TensorRT's file."""
    built, images = drawn("resnet8", 2, exact=True), coloured(6)
    source = write_qonnx(built, 2, tmp_path / "q.onnx")
    path = lower(source, tmp_path / "tensorrt.onnx", target="tensorrt").path
    budget = default_budget("tensorrt", 2, exact=True, codes="int8")
    proof = prove_qdq("tensorrt", path, images, logits(built, images, 2), budget)
    assert proof.departures[-1].failures
