"""Exact networks: powers of two, BatchNorm before the weight quantizer, sums under 2^24."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from tests.training.planned import convolution, convolutions, norm, scale, weights
from training.exact import (
    EXACT_LIMIT,
    Folding,
    nearest_power_of_two,
    power_of_two_above,
)
from training.gradients import PowerOfTwo
from training.network_spec import NetworkSettings, NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network
from training.quantize.scales import PooledScale
from training.quantized_layers import weight_quantizer
from training.quantizers import BitWidthSwitch, LearnedScale

BIT_WIDTHS = (32, 8, 4, 2)


def network(name: str = "resnet8", images: int = 16) -> Network:
    """After some batches, with positive, negative and zero gains, one channel nearly dead and one
    bias far beyond its neighbours."""
    generator = torch.Generator().manual_seed(0)
    spec = NetworkSpec(name=name, classes=10, input_size=16, bit_widths=BIT_WIDTHS, exact=True)
    built = build_network(spec, generator)
    with torch.no_grad():
        for module in built.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.normal_(1.0, 0.3, generator=generator)
                module.weight[:3] = torch.tensor([-0.7, 0.0, 1e-6])
                module.bias.normal_(0.0, 0.3, generator=generator)
                module.bias[3] = 40.0
        for bits in BIT_WIDTHS:
            built.set_bit_width(bits)
            built(torch.randint(0, 256, (images, 3, 16, 16), generator=generator).float())
    return built.for_evaluation()


def test_powers_of_two_are_exact_and_nearest_on_a_logarithmic_scale() -> None:
    x = torch.tensor([1.0, 1.41, 1.42, 0.7, 0.71, 3.0, 2.0**-20, 1.5 * 2.0**60])
    expected = [1.0, 1.0, 2.0, 0.5, 1.0, 4.0, 2.0**-20, 2.0**61]
    assert nearest_power_of_two(x).tolist() == expected
    above = power_of_two_above(x).tolist()
    assert above == [1.0, 2.0, 2.0, 1.0, 1.0, 4.0, 2.0**-20, 2.0**61]
    many = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) * 100.0 + 1e-6
    powers = nearest_power_of_two(many)
    assert (torch.frexp(powers)[0] == 0.5).all()
    assert float((many / powers).log2().abs().max()) <= 0.5 + 1e-6


def test_the_gradient_goes_straight_through_the_rounding_of_the_exponent() -> None:
    scale = torch.tensor([0.75, 1.3], requires_grad=True)
    power = PowerOfTwo.apply(scale)
    power.sum().backward()
    assert power.tolist() == [1.0, 1.0]
    assert scale.grad is not None
    assert scale.grad.tolist() == pytest.approx([1.0 / 0.75, 1.0 / 1.3])


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2"])
def test_every_scale_is_a_power_of_two_and_no_sum_reaches_the_limit(name: str) -> None:
    built = network(name, images=4)
    for bits in BIT_WIDTHS[1:]:
        check_scales(built, bits)


def check_scales(built: Network, bits: int) -> None:
    with built.at(bits), torch.no_grad():
        for layer, unit in convolutions(built).items():
            codes_unit = unit.source.value() / unit.source.odd_part()
            conv = weights(unit)
            quantizer = weight_quantizer(conv)
            for value in (scale(unit).value(), codes_unit, quantizer.value()):
                assert (torch.frexp(value)[0] == 0.5).all(), layer
            step = quantizer.value()
            top = 2 ** (quantizer.codes_bits() - 1) - 1
            codes = (
                (quantizer.folded(conv.weight) / step.view(-1, 1, 1, 1)).round().clamp(-top, top)
            )
            bias = unit.norm.gain_and_bias()[1] / (step * codes_unit)
            largest = codes.abs().sum(dim=(1, 2, 3)) * unit.source.reach() + bias.abs()
            assert float(largest.max()) < EXACT_LIMIT, layer


def test_training_and_evaluation_have_the_same_weight_codes_up_to_the_gain() -> None:
    built = network()
    unit = convolution(built, "block1.first")
    conv = weights(unit)
    quantizer = weight_quantizer(conv)
    for bits in (8, 4, 2):
        with built.at(bits), torch.no_grad():
            folded, own, _, _ = quantizer(conv.weight)
            assert own is not None
            gain = unit.norm.gain_and_bias()[0].view(-1, 1, 1, 1)
            quantizer.train()
            plain, step, _, _ = quantizer(conv.weight)
            quantizer.eval()
            assert step is not None
        codes, other = (folded / own).round(), (plain / step).round() * gain.sign()
        # The products g w and s / |g| are rounded differently: a tie may fall to either side.
        assert float((codes != other).float().mean()) < 1e-3
        assert len(torch.unique(codes)) > 2
        assert not codes[1].any()


def test_a_large_bias_or_a_large_sum_widens_the_weight_step() -> None:
    weight = torch.full((2, 4096, 1, 1), 0.02)
    folding = Folding(
        gain=torch.tensor([1.0, -2.0]),
        bias=torch.tensor([0.0, 100.0]),
        unit=torch.tensor(2.0**-6),
        reach=255,
    )
    least = folding.least_scale(weight)
    assert (torch.frexp(least)[0] == 0.5).all()
    sums = (weight[:, :, 0, 0] * folding.magnitude(weight)[:, None]).sum(1) / least * 255
    assert (sums <= EXACT_LIMIT // 2).all()
    assert float(100.0 / (least[1] * 2.0**-6)) <= EXACT_LIMIT // 4
    assert float(sums[0]) > EXACT_LIMIT // 4
    assert folding.magnitude(torch.zeros(2, 1)).min() > 0


def test_the_averages_scale_is_short_in_binary_and_has_no_half_or_only_exact_ones() -> None:
    switch = BitWidthSwitch(NetworkSettings(name="any", bit_widths=(8,), exact=True))
    stream = LearnedScale(switch, stream=True)
    stream.requires_grad_(False)
    for positions in (1, 2, 4, 9, 16, 36, 49, 64, 100, 196):
        pooled = PooledScale(switch, stream, positions)
        ratio = float(pooled.value() / stream.value())
        assert math.frexp(ratio * positions)[0] * 2**24 % 1 == 0
        power = positions & -positions
        if positions == power:
            assert ratio == 1.0
        else:
            divisor = ratio * positions
            assert divisor == round(divisor)
            assert round(divisor) % 2 == 1
        assert pooled.reach() == 255 * pooled.odd_part()
        assert float(pooled.value() / pooled.odd_part()) == 2.0 ** round(
            math.log2(float(pooled.value() / pooled.odd_part()))
        )


def test_a_copy_folds_with_its_own_norms() -> None:
    built = network()
    other = copy.deepcopy(built)
    pixels = torch.randint(0, 256, (2, 3, 16, 16)).float()
    with built.at(4), other.at(4), torch.no_grad():
        before = other(pixels)
        for unit in convolutions(built).values():
            norm(unit, 4).weight.mul_(-3.0)
        assert torch.equal(other(pixels), before)
        assert not torch.equal(built(pixels), before)


def test_gradients_reach_weights_scales_and_gains() -> None:
    built = network().train()
    with built.at(4):
        built(torch.randint(0, 256, (8, 3, 16, 16)).float()).square().sum().backward()
    unit = convolution(built, "block1.first")
    gains, step = norm(unit, 4).weight.grad, scale(unit).get_parameter("scale_4").grad
    weight = weights(unit).weight.grad
    assert gains is not None and step is not None and weight is not None
    assert float(gains.abs().sum()) > 0.0
    assert float(step.abs()) > 0.0
    assert float(weight.abs().sum()) > 0.0
