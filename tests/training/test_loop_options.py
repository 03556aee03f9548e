"""Moving average, warm start, accumulation and the dry run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deploy.core.errors import InputError
from export.fake_quantized import FakeQuantized
from export.lowering import lower
from export.parity import check_parity
from export.qonnx_from_network import write_qonnx
from tests.training.small_run import saved, small_config
from training.checkpoint import RESUME, load_network, start_from
from training.data import ImageSet
from training.defenses import Batch
from training.dry_run import dry_run
from training.loop import RunOptions, TrainingRun, train
from training.optimizer import MovingAverage
from training.quantize.build import build_network
from training.tensors import persistent_tensors, read_tensors
from training.trainer import Trainer

SHORT = {"epochs": 0.16, "batch_size": 32, "learning_rate": 0.05}


def run(
    folder: Path, images: ImageSet, holdout: ImageSet, options: RunOptions, **changes: object
) -> Path:
    quiet = replace(options, progress=False)
    return train(small_config(**changes), images, holdout, folder, quiet, dict)


def test_the_average_is_that_of_its_formula() -> None:
    module = torch.nn.BatchNorm2d(2)
    average = MovingAverage(persistent_tensors(module), 0.5)
    with torch.no_grad():
        module.weight.fill_(3.0)
    average.update(0)
    # At step 0 the decay is (1 + 0) / (10 + 0), not yet 0.5.
    torch.testing.assert_close(average.tensors["weight"], torch.full((2,), 0.1 + 0.9 * 3.0))
    average.update(1000)
    expected = 0.5 * (0.1 + 0.9 * 3.0) + 0.5 * 3.0
    torch.testing.assert_close(average.tensors["weight"], torch.full((2,), expected))
    module(torch.zeros(2, 2, 2, 2))
    average.update(1001)
    assert int(average.tensors["num_batches_tracked"]) == 1


def test_the_checkpoint_holds_the_average_and_resumes_to_the_same_bytes(
    tmp_path: Path, small_digits: ImageSet, small_holdout: ImageSet
) -> None:
    changes = {"training": {**SHORT, "ema": 0.9, "accumulate": 2}}
    whole = run(tmp_path / "whole", small_digits, small_holdout, RunOptions(), **changes)
    parts = tmp_path / "parts"
    run(parts, small_digits, small_holdout, RunOptions(stop_after=4, save_every=2), **changes)
    resumed = run(parts, small_digits, small_holdout, RunOptions(resume=True), **changes)
    assert resumed.read_bytes() == whole.read_bytes()
    state, _ = read_tensors(parts / RESUME)
    network = persistent_tensors(load_network(whole))
    name = "layers.stem.conv.weight"
    assert torch.equal(network[name], state[f"average.{name}"])
    assert not torch.equal(network[name], state[f"network.{name}"])


def test_the_average_of_a_scale_starts_when_the_scale_does(small_digits: ImageSet) -> None:
    config = small_config(training={**SHORT, "ema": 0.99})
    training = Trainer(config, small_digits)
    for _ in range(2):
        training.one_step()
    assert training.average is not None
    averages = training.average.tensors
    own = persistent_tensors(training.network)
    scales = [n for n in own if n.endswith("scale_8") and n.replace("scale_8", "ready_8") in own]
    assert scales
    for name in scales:
        assert torch.equal(averages[name], own[name]), name


def test_accumulated_parts_give_the_step_of_the_whole_batch(small_digits: ImageSet) -> None:
    # Two equal halves: BatchNorm sees the same statistics in each part as in the whole.
    half = torch.from_numpy(small_digits.images[:16]).float()
    labels = torch.from_numpy(small_digits.labels[:16])
    double = Batch(
        pixels=torch.cat([half, half]), labels=torch.cat([labels, labels]), indices=torch.arange(32)
    )
    gradients = []
    for parts in (1, 2):
        config = small_config(training={**SHORT, "accumulate": parts})
        training = Trainer(config, small_digits)
        pixels = double.pixels.clone().requires_grad_()
        value, logits = training._backward(pixels, double.labels)
        assert logits.shape == (32, 10)
        gradients.append((value, pixels.grad, [p.grad for p in training.parameters.values()]))
    (value, pixel, weights), (other_value, other_pixel, other_weights) = gradients
    assert value == pytest.approx(other_value, rel=1e-5)
    torch.testing.assert_close(pixel, other_pixel, rtol=1e-3, atol=1e-7)
    for own, other in zip(weights, other_weights, strict=True):
        assert (own is None) == (other is None)
        if own is not None:
            # Sums in another order.
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


def test_a_warm_start_takes_the_float_weights_to_every_bit_width(
    small_digits: ImageSet, small_holdout: ImageSet, tmp_path: Path
) -> None:
    of_float = {"name": "resnet8", "bit_widths": [32]}
    folder = tmp_path / "float"
    source = run(
        folder, small_digits, small_holdout, RunOptions(), network=of_float, training=SHORT
    )
    config = small_config(training={**SHORT, "warm_start": str(source)})
    warm_run = TrainingRun(config, small_digits, small_holdout, tmp_path, RunOptions())
    warm = warm_run.trainer
    own, given = persistent_tensors(warm.network), read_tensors(source)[0]
    assert torch.equal(own["layers.stem.conv.weight"], given["layers.stem.conv.weight"])
    for bits in (32, 8, 2):
        name = f"layers.stem.norm.norms.{bits}.running_mean"
        assert torch.equal(own[name], given["layers.stem.norm.norms.32.running_mean"])
    cold = small_config(training=SHORT)
    cold_run = TrainingRun(cold, small_digits, small_holdout, tmp_path, RunOptions())
    assert warm_run.digest != cold_run.digest
    assert math.isfinite(warm.one_step().loss)

    spec = warm.network.spec
    larger = build_network(replace(spec, input_size=2 * spec.image_size[0]), torch.Generator())
    start_from(larger, source)  # trained on smaller images
    started = persistent_tensors(larger)["layers.stem.conv.weight"]
    assert torch.equal(started, given["layers.stem.conv.weight"])

    other = {"name": "resnet20", "bit_widths": [8]}
    wrong = small_config(network=other, training={**SHORT, "warm_start": str(source)})
    with pytest.raises(InputError, match=r"warm_start.*'resnet20'"):
        Trainer(wrong, small_digits)
    nowhere = str(tmp_path / "none.safetensors")
    missing = small_config(training={**SHORT, "warm_start": nowhere})
    with pytest.raises(InputError, match="there is no checkpoint"):
        Trainer(missing, small_digits)


def test_a_run_is_resumed_without_the_file_of_its_warm_start(
    small_digits: ImageSet, small_holdout: ImageSet, tmp_path: Path
) -> None:
    source = run(tmp_path / "start", small_digits, small_holdout, RunOptions(), training=SHORT)
    changes = {"training": {**SHORT, "warm_start": str(source)}}
    whole = run(tmp_path / "whole", small_digits, small_holdout, RunOptions(), **changes)
    run(tmp_path / "parts", small_digits, small_holdout, RunOptions(stop_after=2), **changes)
    source.unlink()
    parts = run(tmp_path / "parts", small_digits, small_holdout, RunOptions(resume=True), **changes)
    assert parts.read_bytes() == whole.read_bytes()
    sidecars = [json.loads(one.with_suffix(".json").read_text()) for one in (whole, parts)]
    assert sidecars[0]["warm_start_sha256"] == sidecars[1]["warm_start_sha256"]


def test_an_interrupted_training_leaves_no_earlier_ones_weights(
    small_digits: ImageSet, small_holdout: ImageSet, tmp_path: Path
) -> None:
    first = run(tmp_path, small_digits, small_holdout, RunOptions(), training=SHORT)
    assert first.is_file()
    run(tmp_path, small_digits, small_holdout, RunOptions(stop_after=1, save_every=9), seed=9)
    with pytest.raises(InputError, match="was interrupted"):
        load_network(first)
    assert not (tmp_path / "checkpoint.json").exists()
    assert saved(tmp_path)["step"] == 1


def test_a_dry_run_estimates_from_real_steps_and_writes_nothing(
    small_digits: ImageSet,
    small_holdout: ImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = small_config(defense={"name": "qadtr"}, training={**SHORT, "epochs": 0.5})
    cost = dry_run(config, small_digits, small_holdout, RunOptions())
    assert list(tmp_path.iterdir()) == []
    assert cost.timed_steps == 5
    assert cost.steps == round(0.5 * (len(small_digits) // 32))
    assert cost.seconds == pytest.approx(cost.steps * cost.seconds_per_step)
    assert cost.parameters > 70_000
    assert cost.network_bytes > 4 * cost.parameters
    # Momentum of every parameter that has had a gradient, and 192 bytes for each image's patch.
    assert cost.state_bytes > 4 * 70_000 + 192 * len(small_digits)
    assert cost.peak_bytes > cost.network_bytes + cost.state_bytes
    text = cost.text()
    assert '"qadtr"' in text
    assert cost.steps >= 20
    assert cost.bf16_over_float32 is not None
    assert cost.bf16_over_float32 > 0.0
    assert f"{cost.bf16_over_float32:.2f} times the images/s of float32 products" in text
    assert f"{cost.parameters}" in text


def test_bfloat16_products_train_like_float32_and_leave_evaluation_as_it_is(
    small_digits: ImageSet, small_holdout: ImageSet
) -> None:
    losses = {}
    for kind in ("off", "bf16"):
        # Without inner attacks, beside which 25 steps learn too little to be seen.
        config = small_config(
            defense={"name": "qadtr", "inner_steps": 0},
            training={**SHORT, "epochs": 0.4, "autocast": kind},
        )
        training = Trainer(config, small_digits)
        network = training.network.train()
        losses[kind] = [training.one_step().loss for _ in range(25)]
    assert losses["off"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["off"], rel=0.15)
    assert sum(losses["bf16"][-5:]) < sum(losses["bf16"][:5])

    pixels = torch.from_numpy(small_holdout.images[:8]).float()
    for bits in network.bit_widths:
        with network.at(bits):
            network.train()
            in_training = network(pixels)
            assert in_training.dtype == torch.float32
            network.for_evaluation()
            found = network(pixels)
            network.set_products(torch.float32)
            assert torch.equal(network(pixels), found)
            network.train()
            assert not torch.equal(network(pixels), in_training)
            network.set_products(torch.bfloat16)


@pytest.mark.parametrize(
    "network",
    [
        {"weight_scales": "learned"},
        {"activation_scales": "statistics"},
        {"activation_scales": "statistics", "exact": True},
        {"weight_scales": "learned", "activation_scales": "statistics"},
    ],
)
def test_every_recipe_of_scales_trains_resumes_and_is_what_the_integer_engine_computes(
    network: dict[str, object], tmp_path: Path, small_digits: ImageSet, small_holdout: ImageSet
) -> None:
    changes = {"training": SHORT, "network": {"name": "resnet8", "bit_widths": [4, 2], **network}}
    whole = run(tmp_path / "whole", small_digits, small_holdout, RunOptions(), **changes)
    parts = tmp_path / "parts"
    run(parts, small_digits, small_holdout, RunOptions(stop_after=3, save_every=3), **changes)
    resumed = run(parts, small_digits, small_holdout, RunOptions(resume=True), **changes)
    assert resumed.read_bytes() == whole.read_bytes()

    trained = load_network(whole)
    assert trained.spec.weight_scales == network.get("weight_scales", "statistics")
    images = small_holdout.images[:40]
    for bits in (4, 2):
        lowered = lower(write_qonnx(trained, bits, tmp_path / "q.onnx"), tmp_path / "i.onnx")
        parity = check_parity(lowered.path, images, fake_quantized=FakeQuantized(trained, bits))
        assert parity.first_departure is None
        assert parity.agreement is not None
        assert parity.agreement >= 0.95


def test_bfloat16_products_resume_to_the_same_bytes(
    tmp_path: Path, small_digits: ImageSet, small_holdout: ImageSet
) -> None:
    changes = {"training": {**SHORT, "autocast": "bf16"}, "defense": {"name": "qadtr"}}
    whole = run(tmp_path / "whole", small_digits, small_holdout, RunOptions(), **changes)
    parts = tmp_path / "parts"
    run(parts, small_digits, small_holdout, RunOptions(stop_after=3, save_every=3), **changes)
    resumed = run(parts, small_digits, small_holdout, RunOptions(resume=True), **changes)
    assert resumed.read_bytes() == whole.read_bytes()
    assert (
        dry_run(small_config(), small_digits, small_holdout, RunOptions())
        .text()
        .count("not timed: the training is too short")
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"autocast": "fp16"}, "must be one of"),
        ({"accumulate": 3}, "must divide"),
        ({"accumulate": 32}, "at least 2 images"),
        ({"ema": 1.0}, "below 1"),
        ({"warm_start": 3}, "must be text; got 3"),
    ],
)
def test_wrong_options(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_config(training={**SHORT, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_scales": "max"}, "must be one of"),
        ({"activation_scales": "max"}, "must be one of"),
        ({"codes": "int4"}, "codes must be one of uint8, int8"),
        ({"weight_scales": "learned", "exact": True}, "exact = true needs"),
    ],
)
def test_wrong_recipes(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_config(network={"name": "resnet8", "bit_widths": [4], **change})
