from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.strict_json import read_json, write_json
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from export.budget import EQUAL, Budget
from export.fake_quantized import Batch
from export.graph import initializers
from export.parity import check_parity
from export.parity_report import ParityError
from export.reading import read_model
from export.reference import IntegerReference, arithmetic
from tests.export.integer_graphs import balance, random_images, residual_graph, with_array

COUNT = 96
INPUT_OF = {"stem": "images", "block_conv2": "block_clip1.out"}


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return random_images(np.random.default_rng(5), COUNT, 8)


@pytest.fixture
def model(images: NDArray[np.uint8], tmp_path: Path) -> Path:
    graph = residual_graph(np.random.default_rng(2), bits=4)
    return balance(graph, images, tmp_path / "model.onnx")


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_engine_and_reference_agree_on_every_code_and_logit(
    bits: int, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    graph = residual_graph(np.random.default_rng(2), bits=bits)
    parity = check_parity(balance(graph, images, tmp_path / "model.onnx"), images)
    assert parity.required() is parity
    assert parity.ok
    assert parity.first_departure is None
    assert (parity.logits_different, parity.predictions_different) == (0, 0)
    assert parity.largest_logit_difference == 0
    assert parity.predicted_classes >= 3
    assert [layer.name for layer in parity.layers] == [
        "stem", "stem_pool", "block_codes", "block_conv1", "block_clip1", "block_conv2",
        "block_add", "pool", "flatten",
    ]  # fmt: skip
    assert parity.layers[0].values == COUNT * 8 * 8 * 8
    assert all(layer.different == 0 for layer in parity.layers)
    assert 2 <= parity.layers[4].distinct_codes <= 16
    assert (parity.flips, parity.agreement) == (None, None)


PLANTED: dict[str, tuple[str, str]] = {
    "one weight of the stem": ("stem.weight", "stem"),
    "one 4-bit weight": ("block_conv1.weight", "block_conv1"),
    "one weight of the branch": ("block_conv2.weight", "block_conv2"),
    "one bias of the stem": ("stem.bias", "stem"),
    "one bias of the branch": ("block_conv2.bias", "block_conv2"),
    "one weight of the logits": ("dense.weight", "dense"),
    "one bias of the logits": ("dense.bias", "dense"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_one_wrong_number_is_found_in_its_layer(
    case: str, model: Path, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    name, layer = PLANTED[case]
    stored = initializers(read_model(model))

    def spoil(array: NDArray[Any]) -> NDArray[Any]:
        where = (1,) + (0,) * (array.ndim - 1)
        if name.endswith(".bias"):
            # A tenth of an output code, or of a logit's step: a tenth of the codes moves by one.
            code = 1.0
            if layer != "dense":
                input_scale = stored[f"{INPUT_OF[layer]}.scale"].item()
                step = input_scale * stored[f"{layer}.weight_scale"][1]
                code = stored[f"{layer}.y_scale"].item() / step / 10
            array[where] += max(1, round(code))
        else:
            array[where] = -array[where] if int(array[where]) else 1
        return array

    faulty = with_array(model, tmp_path / "faulty.onnx", name, spoil)
    # The engine runs the faulty file, the reference the golden one.
    parity = check_parity(faulty, images, reference=model)
    assert not parity.ok
    assert parity.first_departure == layer
    assert parity.model_sha256 != parity.reference_sha256
    assert any(repr(layer) in failure for failure in parity.failures)
    with pytest.raises(ParityError, match=layer):
        parity.required()


def rounds_down(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.floor(values, out=values)


def rounds_half_up(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.floor(values + np.float32(0.5))


def test_another_rounding_mode_is_found_in_the_first_layer_that_rounds(
    model: Path, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "round_half_even", rounds_down)
    parity = check_parity(model, images)
    assert parity.first_departure == "stem"
    assert parity.layers[0].largest_difference == 1


def test_rounding_half_up_is_found_where_ties_exist(
    images: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = residual_graph(np.random.default_rng(2))
    # Powers of two: half of the stem's accumulators lie on a tie.
    graph.arrays["stem.weight_scale"] = np.full(8, 2.0**-8, np.float32)
    graph.arrays["stem.y_scale"] = np.array(2.0**-13, np.float32)
    path = balance(graph, images, tmp_path / "ties.onnx")
    assert check_parity(path, images).first_departure is None
    monkeypatch.setattr(arithmetic, "round_half_even", rounds_half_up)
    assert check_parity(path, images).first_departure == "stem"


def test_an_engine_that_departs_in_the_logits_alone_is_found(
    model: Path, images: NDArray[np.uint8]
) -> None:
    class Biased(OnnxRuntimeEngine):
        def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            logits = super().run(batch)
            logits[:, 0] += np.float32(1e-3)
            return logits

    engine: Any = Biased
    parity = check_parity(model, images, open_engine=engine)
    assert parity.first_departure == "dense"
    assert parity.logits_different == COUNT
    assert parity.largest_logit_difference == pytest.approx(1e-3, rel=0.01)


def test_an_engine_that_treats_the_probe_otherwise_is_found(
    model: Path, images: NDArray[np.uint8]
) -> None:
    class TwoFaced(OnnxRuntimeEngine):
        def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            logits = super().run(batch)
            return logits + np.float32(logits.shape[1] > 5)

    engine: Any = TwoFaced
    parity = check_parity(model, images, open_engine=engine)
    assert any("not proved" in failure for failure in parity.failures)


def test_a_dead_layer_fails_although_everything_agrees(
    model: Path, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    dead = with_array(model, tmp_path / "dead.onnx", "block_clip1.high", lambda a: a * 0)
    parity = check_parity(dead, images)
    assert parity.first_departure is None
    assert not parity.ok
    (said,) = (text for text in parity.failures if "'block_clip1'" in text)
    assert "1 distinct" in said
    assert "train longer" in said
    assert "EQUAL, BUT NOT ACCEPTED" in parity.summary()
    assert "'block_clip1'" in parity.summary()


def test_too_few_predicted_classes_fail_although_everything_agrees(
    model: Path, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    def first_always(array: NDArray[Any]) -> NDArray[Any]:
        array[0] = 10**6
        return array

    one = with_array(model, tmp_path / "one.onnx", "dense.bias", first_always)
    parity = check_parity(one, images)
    assert (parity.first_departure, parity.predicted_classes) == (None, 1)
    (said,) = (text for text in parity.failures if "1 of 5 classes" in text)
    assert said.endswith("train longer or calibrate, or give more hold-out images of all classes")


def test_flips_against_the_fake_quantized_network_are_image_indices(
    model: Path, images: NDArray[np.uint8]
) -> None:
    reference = IntegerReference(model)

    def other_in_two(batch: NDArray[np.uint8]) -> Batch:
        logits = reference.run(batch)
        for wrong in (images[3], images[50]):
            at = (batch == wrong).all(axis=(1, 2, 3))
            logits[at] = np.roll(logits[at], 1, axis=1)
        return logits, {}

    parity = check_parity(model, images, fake_quantized=other_in_two)
    assert parity.ok
    assert parity.flips == (3, 50)
    assert parity.agreement == pytest.approx(1 - 2 / COUNT)
    half_a_percent = Budget(logits=None, flips=0.005)
    strict = check_parity(model, images, fake_quantized=other_in_two, budget=half_a_percent)
    (failure,) = strict.failures
    assert failure.startswith("2 of 96 images (2.083%) have another class")
    assert failure.endswith("the budget is 0.500%")


def test_a_file_with_a_fixed_batch_size_is_compared_on_all_images(
    model: Path, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    fixed = onnx.load(model)
    for value in (fixed.graph.input[0], fixed.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 7
    path = tmp_path / "fixed.onnx"
    path.write_bytes(fixed.SerializeToString())
    free, seven = check_parity(model, images), check_parity(path, images)
    assert seven.ok
    assert seven.layers == free.layers
    assert seven.images == COUNT


def test_the_report_is_plain_json(model: Path, images: NDArray[np.uint8], tmp_path: Path) -> None:
    fake = IntegerReference(model)
    parity = check_parity(
        model, images, fake_quantized=lambda batch: (fake.run(batch), {}), budget=EQUAL
    )
    assert parity.ok
    write_json(tmp_path / "parity.json", parity.to_json())
    value: Any = read_json(tmp_path / "parity.json")
    assert (value["format_version"], value["ok"], value["images"]) == (2, True, COUNT)
    assert value["layers"][0] == asdict(parity.layers[0])
    assert value["budget"] == {
        "code_flips": 0.0,
        "largest_code_flip": 0,
        "prediction_flips": 0.0,
        "logits_equal": True,
    }


def test_wrong_arguments_are_refused(
    model: Path, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    with pytest.raises(NothingToEvaluate):
        check_parity(model, images[:0])
    with pytest.raises(InputError, match="needs"):
        check_parity(model, images, budget=EQUAL)
    other = onnx.load(model)
    for node in other.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = "sum" if name == "block_add.out" else name
    (tmp_path / "other.onnx").write_bytes(other.SerializeToString())
    with pytest.raises(InputError, match=r"block_add\.out"):
        check_parity(tmp_path / "other.onnx", images, reference=model)
