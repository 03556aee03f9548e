"""The target "litert": any network as a .tflite file, equal to its reference in both arithmetics,
to the all-integer file in every code, and run by a microcontroller's interpreter."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from numpy.typing import NDArray
from tflite_micro.python.tflite_micro import runtime

from deploy.core.errors import EngineUnavailable, InputError
from deploy.core.model_contents import OPERATORS, read_tflite_contents, require_contents
from deploy.litert_engine import KERNELS
from export.fake_quantized import FakeQuantized
from export.litert_certificate import certify_litert
from export.lowering import lower, lower_float
from export.origin import require_origin
from export.parity import check_litert_parity
from export.parity_report import Parity
from export.qonnx_from_network import write_qonnx
from export.reference import IntegerReference, LiteRtReference, supported_litert_operators
from export.reference.litert_arithmetic import (
    MICROCONTROLLER,
    fixed_product,
    quantized_multiplier,
    wide_product,
)
from tests.export.random_qonnx import small_networks, write_random
from tests.export.test_any_network import CASES, calibrated, images_of
from tests.export.test_network_lowering import fields, network
from training.quantize import Network


def require_equal(found: Parity) -> None:
    """Every code and logit; what a network without training predicts is not the matter."""
    assert found.first_departure is None, found.summary()
    assert found.logits_different == 0
    assert "engine optimized the two differently" not in found.summary()


@pytest.mark.slow
def test_random_networks_are_equal_in_both_arithmetics() -> None:
    drawn: set[str] = set()

    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(model=small_networks())
    def equal(model: onnx.ModelProto) -> None:
        size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
        images = np.random.default_rng(size).integers(0, 256, (3, 3, size, size), dtype=np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            source = write_random(model, Path(folder) / "q.onnx")
            made = lower(source, Path(folder) / "m.tflite", target="litert")
            drawn.update(require_contents(made.path.read_bytes(), "litert", "m").operators)
            assert certify_litert(made.path).ok
            for kernels in KERNELS:
                require_equal(check_litert_parity(made.path, images, kernels=kernels))

    equal()
    assert drawn >= {"ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "MAXIMUM", "MEAN", "PAD"}


@pytest.mark.parametrize("bits", [8, 2])
@pytest.mark.parametrize("name", CASES)
def test_any_network_has_the_codes_of_its_training(name: str, bits: int, tmp_path: Path) -> None:
    built, images = calibrated(name), images_of(name, 16, seed=2)
    source = write_qonnx(built, bits, tmp_path / "q.onnx")
    made = lower(source, tmp_path / "m.tflite", target="litert")
    certify_litert(made.path).required()
    fake = FakeQuantized(built, bits)
    found = check_litert_parity(made.path, images, fake_quantized=fake)
    require_equal(found)
    compared = [layer for layer in found.layers if layer.flips is not None]
    assert compared
    assert sum(layer.flips or 0 for layer in compared) == 0
    require_equal(check_litert_parity(made.path, images[:4], kernels="reference"))


@cache
def drawn_network(name: str, bits: int) -> Network:
    return network(name, bits)


@pytest.mark.parametrize(
    ("name", "bits"), [("resnet8", 8), ("resnet8", 4), ("resnet8", 2), ("mobilenetv2", 4)]
)
def test_codes_are_those_of_the_all_integer_file(name: str, bits: int, tmp_path: Path) -> None:
    built, images = drawn_network(name, bits), fields(4)
    source = write_qonnx(built, bits, tmp_path / "q.onnx", checkpoint_sha256="a" * 64)
    path = lower(source, tmp_path / "m.tflite", target="litert").path
    onnx_path = lower(source, tmp_path / "m.onnx").path
    ours, theirs = LiteRtReference(path), IntegerReference(onnx_path)
    codes, expected = ours.codes(images), theirs.codes(images)
    shared = [one for one in codes if one in expected and not one.endswith(".wide")]
    shared = [one for one in shared if codes[one].shape == expected[one].shape]
    assert len(shared) >= 10
    for one in shared:
        # The zero points differ, by a constant.
        gap = codes[one].astype(int) - expected[one]
        assert len(np.unique(gap)) == 1, one
    logits = theirs.run(images)
    step = float(ours.logit_scale)
    np.testing.assert_allclose(ours.run(images), logits, rtol=1e-6, atol=0.51 * step)
    require_origin(path, "a" * 64)
    with pytest.raises(InputError, match="trained again since"):
        require_origin(path, "b" * 64)


def test_the_file_follows_from_the_network_alone(tmp_path: Path) -> None:
    source = write_qonnx(drawn_network("resnet8", 4), 4, tmp_path / "q.onnx")
    first, second = (lower(source, tmp_path / f"{n}.tflite", target="litert") for n in "ab")
    assert first.sha256 == second.sha256
    assert str(tmp_path).encode() not in first.path.read_bytes()
    file = read_tflite_contents(first.path.read_bytes(), "a")
    kinds = {one.type for one in file.tensors}
    assert kinds == {"int8", "int16", "int32", "int64"}
    weights = [one for one in file.tensors if one.name.endswith(".w")]
    assert all(one.type == "int8" and set(one.zero_points) == {0} for one in weights)
    assert all(len(one.scales) == one.shape[0] for one in weights if len(one.shape) == 4)


def test_the_certificate_names_kernels_and_types(tmp_path: Path) -> None:
    source = write_qonnx(drawn_network("resnet8", 4), 4, tmp_path / "q.onnx")
    path = lower(source, tmp_path / "m.tflite", target="litert").path
    found = certify_litert(path).required()
    counts = found.counts()
    assert {kind: one["integer"] for kind, one in counts.items()} == {
        "convolution": 9, "matrix product": 1, "addition": 3, "pool": 1, "gate": 0, "function": 0,
    }  # fmt: skip
    assert len(found.requantizations) == 3
    providers = {layer.operator: layer.provider for layer in found.layers}
    assert providers["CONV_2D"] == providers["ADD"] == providers["MEAN"] == "XNNPACK"
    assert providers["FULLY_CONNECTED"] == "LiteRT"
    schema = json.loads(Path("export/schemas/certificate-2.json").read_text())
    jsonschema.validate(found.to_json(), schema)
    reference = certify_litert(path, kernels="reference").required()
    assert {layer.provider for layer in reference.layers} == {"LiteRT"}


@pytest.mark.parametrize("bits", [8, 2])
def test_a_microcontrollers_interpreter_gives_its_references_numbers(
    bits: int, tmp_path: Path
) -> None:
    source = write_qonnx(drawn_network("resnet8", bits), bits, tmp_path / "q.onnx")
    path = lower(source, tmp_path / "m.tflite", target="litert").path
    reference = LiteRtReference(path, arithmetic=MICROCONTROLLER)
    images = fields(4)
    codes, logits = reference.codes(images), reference.run(images)
    file = read_tflite_contents(path.read_bytes(), "m")
    numbers = {tensor.name: number for number, tensor in enumerate(file.tensors)}
    interpreter = runtime.Interpreter.from_file(
        str(path),
        arena_size=2_000_000,
        intrepreter_config=runtime.InterpreterConfig.kPreserveAllTensors,
    )
    for number, image in enumerate((images.transpose(0, 2, 3, 1) ^ 128).view(np.int8)):
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        found: NDArray[Any] = interpreter.get_output(0)[0]
        assert np.array_equal(found.astype(np.float32) * reference.logit_scale, logits[number])
        for name, expected in codes.items():
            tensor: NDArray[Any] = interpreter.GetTensor(numbers[name], 0)["tensor_data"]
            shown = tensor.view(np.uint8) ^ np.uint8(128)
            shown = shown.transpose(0, 3, 1, 2) if shown.ndim == 4 else shown
            assert np.array_equal(shown[0], expected[number].reshape(shown.shape[1:])), name


def test_multipliers_are_quantized_as_they_are_there() -> None:
    assert quantized_multiplier(1.0) == (1 << 30, 1)
    assert quantized_multiplier(0.0) == (0, 0)
    assert quantized_multiplier(0.75) == (1610612736, 0)
    assert quantized_multiplier(1.0 - 2.0**-40) == (1 << 30, 1)  # rounds up to the next power
    assert quantized_multiplier(2.0**-40) == (0, 0)
    x = np.array([3, -3, 5, -5, 1, -1], np.int64)
    # The product's division truncates, so its halves go up; those of the shift go away from 0.
    assert fixed_product(x, *quantized_multiplier(0.5)).tolist() == [2, -1, 3, -2, 1, 0]
    assert fixed_product(2 * x, *quantized_multiplier(0.25)).tolist() == [2, -2, 3, -3, 1, -1]
    assert fixed_product(x, *quantized_multiplier(4.0)).tolist() == [12, -12, 20, -20, 4, -4]


def test_one_rounding_is_that_of_the_exact_product() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-(1 << 24), 1 << 24, 2000)
    for real in (0.75, 1 / 3, 0.0031, 2.0**-9, 1.7):
        q, exponent = quantized_multiplier(real)
        exact = [Fraction(int(one) * q) * Fraction(2) ** (exponent - 31) for one in x]
        once = [math.floor(one + Fraction(1, 2)) for one in exact]
        assert wide_product(x, q, exponent).tolist() == once
    # 255 / 512 lies below a half; rounded to 128 / 256 first, it goes up.
    multiplier = quantized_multiplier(2.0**-9)
    assert wide_product(np.array([255]), *multiplier).tolist() == [0]
    assert fixed_product(np.array([255]), *multiplier).tolist() == [1]


def test_every_operator_of_the_target_has_a_reference() -> None:
    assert set(supported_litert_operators()) == OPERATORS["litert"]


def test_32_bits_are_refused_in_one_line(tmp_path: Path) -> None:
    source = write_qonnx(calibrated("dense"), 32, tmp_path / "q.onnx")
    with pytest.raises(InputError, match="no float baseline; give the integer bit-widths"):
        lower_float(source, tmp_path / "m.tflite", target="litert")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_qonnx(drawn_network("resnet8", 4), 4, tmp_path / "q.onnx")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(EngineUnavailable, match=r"pip install .*\[litert\]"):
        lower(source, tmp_path / "m.tflite", target="litert")
    assert not (tmp_path / "m.tflite").exists()
