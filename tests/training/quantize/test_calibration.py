"""Scales and BatchNorm from images: near the best, near the truth, and the float classes."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deploy.core.errors import InputError, NothingToEvaluate
from tests.training.planned import convolution, convolutions, norm, weights
from tests.training.quantize.networks import (
    NETWORKS,
    SIZE,
    fields,
    network,
    plan_module,
    planned,
    settle,
)
from training.network_spec import NetworkSpec
from training.prediction import logits
from training.quantize import Network
from training.quantize.calibration import calibrate
from training.quantize.norms import SwitchableBatchNorm2d
from training.quantizers import LearnedScale

CALIBRATION, IMAGES = fields(128, seed=1), fields(200, seed=2)


def uncalibrated(name: str, *bit_widths: int, exact: bool = False) -> Network:
    module = settle(network(name), CALIBRATION)
    found = plan_module(module, torch.zeros(1, 3, SIZE, SIZE))
    spec = NetworkSpec(name="own", classes=5, input_size=SIZE, bit_widths=bit_widths, exact=exact)
    made = Network(spec, found.plan)
    made.load_float(found.tensors)
    return made


@pytest.mark.parametrize("name", NETWORKS)
def test_at_eight_bits_the_network_is_the_float_one(name: str) -> None:
    made = planned(settle(network(name), CALIBRATION), CALIBRATION, 32, 8, 4, 2)
    exact = logits(made, IMAGES, 32)
    ours = {bits: logits(made, IMAGES, bits) for bits in (8, 4, 2)}
    size = np.abs(exact).max()
    errors = {bits: np.abs(found - exact).mean() / size for bits, found in ours.items()}
    # Drawn weights leave the averages of many images within a few codes, and logits that are made
    # of unit deviation close together: their order may turn.
    assert errors[8] < (0.05 if name == "gated" else 0.02)
    assert errors[8] < errors[4] < errors[2] < 0.6
    assert float((ours[8].argmax(1) == exact.argmax(1)).mean()) > 0.85


@pytest.mark.parametrize("name", NETWORKS)
def test_every_scale_is_set_and_none_is_far_from_the_best(name: str) -> None:
    made = uncalibrated(name, 32, 8, 4)
    calibrate(made, CALIBRATION)
    assert not made.training
    for module in made.modules():
        if isinstance(module, LearnedScale):
            assert all(module.is_ready(bits) for bits in (8, 4))
            assert all(float(module.get_parameter(f"scale_{b}").detach()) != 1.0 for b in (8, 4))
    x = torch.from_numpy(CALIBRATION).float()
    # One tensor that shares its scale with no other. The scale is fitted to a sample of its values.
    alone = {"preactivated": "norm1", "dense": None, "gated": "down", "shuffled": "stem",
             "classical": "classifier.1", "averaged": "one", "vectors": "conv"}[name]  # fmt: skip
    if alone is None:
        return
    with torch.no_grad(), made.at(32):
        values = made.run(x, keep=[alone])[alone]
    scale = cast(LearnedScale, made.scale_of(alone))
    with made.at(4):
        bits, signed, own = scale.codes_bits(), scale.signed, float(scale.value())

    def error(step: float) -> float:
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return float(((values / step).round().clamp(low, high) * step - values).square().mean())

    least = min(error(own * factor) for factor in np.geomspace(0.2, 5.0, 200))
    assert error(own) < 1.4 * least


def test_batch_norm_has_the_statistics_of_what_it_is_given() -> None:
    made = uncalibrated("gated", 32, 8, 2)
    before = {b: norm(convolution(made, "conv"), b).running_mean for b in (32, 8, 2)}
    kept = {b: cast(Tensor, mean).clone() for b, mean in before.items()}
    calibrate(made, CALIBRATION, batch_size=16, norms="estimate")
    x = torch.from_numpy(CALIBRATION).float()
    for bits in (32, 8, 2):
        for name in ("stem", "conv"):
            layer = convolution(made, name)
            with made.at(bits), torch.no_grad():
                source = made.plan.step(name).inputs[0]
                # As in calibration: what comes before has the statistics of its own batch.
                given = weights(layer)(made.run(x, keep=[source])[source])
            deviation, mean = torch.std_mean(given, dim=(0, 2, 3))
            found = norm(layer, bits)
            assert found.running_mean is not None and found.running_var is not None
            off = (found.running_mean - mean).abs() / deviation
            assert float(off.max()) < (1e-5 if name == "stem" else 0.15)
            ratio = found.running_var.sqrt() / deviation
            # The mean of variances of 16 images is a little under the variance of all.
            assert float((ratio - 1.0).abs().max()) < (0.02 if name == "stem" else 0.25)
    for bits in (32, 2):
        found = norm(convolution(made, "conv"), bits)
        assert not torch.equal(cast(Tensor, found.running_mean), kept[bits])
    assert not any(m.training for m in made.modules())
    momenta = {m.momentum for m in made.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.1}


def mean_at(network: Network, bits: int) -> Tensor:
    return cast(Tensor, norm(convolution(network, "conv"), bits).running_mean)


def test_trained_statistics_are_corrected_and_not_replaced() -> None:
    """A hundred images have other statistics than the training set; at 8 bits little else is
    different, at 2 bits nearly everything."""
    made, other = (uncalibrated("gated", 32, 8, 2) for _ in range(2))
    for one in (made, other):
        trained = norm(convolution(one, "conv"), 32)
        assert trained.running_mean is not None and trained.running_var is not None
        trained.running_mean.add_(trained.running_var.sqrt())
    calibrate(made, CALIBRATION)
    calibrate(other, CALIBRATION, norms="estimate")

    def moved(network: Network, bits: int) -> float:
        off = (mean_at(network, bits) - mean_at(made, 32)) / deviation
        return float(off.abs().max())

    deviation = cast(Tensor, norm(convolution(made, "conv"), 32).running_var).sqrt()
    assert moved(made, 8) < 0.1
    assert moved(other, 8) > 0.9
    assert moved(made, 2) > 0.8


def test_norms_can_be_left_as_they_are() -> None:
    made = uncalibrated("gated", 32, 4)
    before = {n: t.clone() for n, t in made.state_dict().items() if "norms" in n}
    calibrate(made, CALIBRATION, norms="keep")
    assert all(torch.equal(t, before[n]) for n, t in made.state_dict().items() if "norms" in n)


def test_stored_gains_and_the_images_normalization_have_no_statistics() -> None:
    """A BatchNorm in their place would take the images' own mean and deviation."""

    class Gains(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.conv = nn.MaxPool2d(2), nn.Conv2d(3, 4, 3)
            self.gain = nn.Parameter(torch.tensor([0.3, 2.0, 1.0, -1.0]).view(4, 1, 1))
            self.linear = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.conv(self.pool(x))) * self.gain
            return self.linear(x.mean((2, 3)))

    torch.manual_seed(0)
    module = Gains().eval()
    mean, std = [0.3, 0.4, 0.5], [0.2] * 3
    found = plan_module(module, torch.zeros(1, 3, SIZE, SIZE), mean=mean, std=std)
    spec = NetworkSpec(name="own", classes=5, input_size=SIZE, bit_widths=(32, 8))
    made = Network(spec, found.plan)
    made.load_float(found.tensors)
    maps = [name for name, layer in convolutions(made).items() if layer.conv is None]
    assert maps == ["pixels.normalized", "norm"]
    calibrate(made, CALIBRATION)
    assert not any(isinstance(m, SwitchableBatchNorm2d) for m in made.modules())
    x = (torch.from_numpy(IMAGES).float() / 255.0 - torch.tensor(mean).view(1, 3, 1, 1)) / 0.2
    with torch.no_grad():
        theirs = module(x).numpy()
    # A 1/255 of the image's range, and of each layer's, is what 8 bits leave.
    np.testing.assert_allclose(logits(made, IMAGES, 8), theirs, atol=0.04 * np.abs(theirs).max())


def test_an_exact_network_is_calibrated_too() -> None:
    made = uncalibrated("dense", 32, 8, exact=True)
    calibrate(made, CALIBRATION)
    size = np.abs(logits(made, IMAGES, 32)).max()
    error = np.abs(logits(made, IMAGES, 8) - logits(made, IMAGES, 32)).mean() / size
    assert error < 0.03


def test_the_batch_norm_of_an_exact_network_sees_no_gain_twice() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
            self.linear = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

    torch.manual_seed(0)
    module = Normed()
    nn.init.uniform_(module.norm.weight, 0.3, 3.0)
    made = planned(settle(module, CALIBRATION), CALIBRATION, 32, 8, exact=True)
    found, true = norm(convolution(made, "conv"), 8), module.norm
    assert found.running_mean is not None and true.running_mean is not None
    assert found.running_var is not None and true.running_var is not None
    torch.testing.assert_close(found.running_mean, true.running_mean, rtol=0.05, atol=0.02)
    torch.testing.assert_close(found.running_var, true.running_var, rtol=0.05, atol=0.0)
    exact = logits(made, IMAGES, 32)
    np.testing.assert_allclose(logits(made, IMAGES, 8), exact, atol=0.05 * np.abs(exact).max())


def test_the_same_images_give_the_same_network() -> None:
    first, second = (uncalibrated("gated", 32, 4) for _ in range(2))
    for made in (first, second):
        calibrate(made, CALIBRATION)
    theirs = second.state_dict()
    assert all(torch.equal(tensor, theirs[n]) for n, tensor in first.state_dict().items())


def test_images_of_one_value_and_fewer_than_a_batch_give_finite_scales() -> None:
    made = uncalibrated("gated", 32, 4)
    calibrate(made, np.full((3, 3, SIZE, SIZE), 128, np.uint8), batch_size=64)
    assert all(bool(t.isfinite().all()) for t in made.state_dict().values())


def test_no_images_and_no_float_mode_are_refused() -> None:
    with pytest.raises(NothingToEvaluate, match="calibration needs at least one image"):
        calibrate(uncalibrated("dense", 32, 8), CALIBRATION[:0])
    with pytest.raises(InputError, match="add 32 to the bit-widths"):
        calibrate(uncalibrated("dense", 8, 4), CALIBRATION)
