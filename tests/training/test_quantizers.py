"""The quantizers give Brevitas' values; steps and ratios have the properties they promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp, TensorClampSte
from brevitas.core.quant import IntQuant
from torch import Tensor

from deploy.core.errors import InputError
from training.gradients import FakeQuantize, NoiseBank, NoisyGradient
from training.network_spec import NetworkSettings, NetworkSpec
from training.quantize.build import build_network
from training.quantized_layers import quantized_convolution, weight_quantizer
from training.quantizers import (
    BitWidthSwitch,
    LearnedScale,
)
from training.steps import gaussian_error, gaussian_step, residual_ratio
from training.weight_quantizer import WeightQuantizer


@pytest.mark.parametrize(
    ("signed", "narrow", "bits", "clamp"),
    [
        (False, False, 8, TensorClamp),
        (False, False, 4, TensorClamp),
        (False, False, 2, TensorClamp),
        (True, False, 8, TensorClamp),
        (True, True, 2, TensorClampSte),
        (True, True, 5, TensorClampSte),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_brevitas(
    signed: bool, narrow: bool, bits: int, clamp: type, layout: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(bits)
    x = 2.0 * torch.randn(4, 8, 6, 6, generator=generator).to(memory_format=layout)
    gradient = torch.randn(4, 8, 6, 6, generator=generator).to(memory_format=layout)
    stock = IntQuant(
        narrow_range=narrow,
        signed=signed,
        float_to_int_impl=RoundSte(),
        tensor_clamp_impl=clamp(),
        input_view_impl=Identity(),
    )
    low = -(2 ** (bits - 1)) + int(narrow) if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    pass_clipped = clamp is TensorClampSte
    results = []
    for ours in (False, True):
        inputs = x.clone().requires_grad_()
        scale = torch.tensor(0.173, requires_grad=not pass_clipped)
        if ours:
            y = FakeQuantize.apply(inputs, scale, low, high, pass_clipped)
        else:
            y = stock(scale, torch.tensor(0.0), torch.tensor(float(bits)), inputs)
        y.backward(gradient)
        results.append((y.detach(), inputs.grad, scale.grad))
    (theirs, their_x, their_scale), (mine, my_x, my_scale) = results
    assert torch.equal(mine, theirs)
    # Brevitas multiplies the gradient by the scale and divides it again: one rounding more.
    torch.testing.assert_close(my_x, their_x, rtol=1e-6, atol=0.0)
    if their_scale is not None:
        # Sums of 1,152 float32 products in another order.
        torch.testing.assert_close(my_scale, their_scale, rtol=1e-4, atol=1e-3)


def switch_of(bit_widths: tuple[int, ...], **settings: Any) -> BitWidthSwitch:
    return BitWidthSwitch(NetworkSettings(name="any", bit_widths=bit_widths, **settings))


def test_the_step_minimises_the_error_and_matches_the_classical_table() -> None:
    # Max (1960), table II: uniform quantizers of 3 and 15 levels would lie beside 4 and 16.
    assert gaussian_step(3) == pytest.approx(1.2240, abs=1e-3)
    for levels in (3, 7, 15, 31, 255):
        step = gaussian_step(levels)
        best = gaussian_error(levels, step)
        assert best < gaussian_error(levels, 0.98 * step)
        assert best < gaussian_error(levels, 1.02 * step)


def test_the_closed_form_of_the_error_is_that_of_a_sample() -> None:
    x = np.random.default_rng(0).standard_normal(400_000)
    for levels, step in ((3, 1.0), (15, 0.4)):
        top = (levels - 1) // 2
        sampled = np.mean((x - np.clip(np.rint(x / step), -top, top) * step) ** 2)
        assert gaussian_error(levels, step) == pytest.approx(sampled, rel=0.02)


@pytest.mark.parametrize("stream_bits", [7, 8])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_no_stream_code_is_halfway_between_two_branch_codes(bits: int, stream_bits: int) -> None:
    ratio = residual_ratio(bits, stream_bits)
    assert ratio % 2 == 1
    reach = ratio * (2**bits - 1) / (2**stream_bits - 1)
    assert 0.4 < reach < 0.75 or (ratio == 1 and reach >= 0.4)
    # Twice the code over the ratio would be an odd integer at a tie.
    doubled = 2 * np.arange(256)
    assert not np.any((doubled % ratio == 0) & ((doubled // ratio) % 2 == 1))


def test_a_channel_of_zeros_keeps_finite_weights() -> None:
    switch = switch_of((4,))
    quantizer = WeightQuantizer(switch, 2, fixed_bits=None)
    weight = torch.zeros(2, 3, 3, 3)
    weight[1] = 0.5
    y, scale, _, _ = quantizer(weight)
    assert scale is not None
    assert torch.isfinite(y).all()
    assert torch.equal(y[0], weight[0])


def test_the_layer_is_brevitas_and_switches_without_rebuilding() -> None:
    switch = switch_of((32, 4, 2))
    layer = quantized_convolution(switch, 3, 5, kernel=(3, 3), padding=(1, 1))
    distinct = {}
    for bits in (32, 4, 2):
        switch.set(bits)
        distinct[bits] = len(torch.unique(layer.quant_weight()[0]))
    assert distinct[2] <= 3 < distinct[4] <= 15 < distinct[32]
    assert weight_quantizer(layer).codes_bits() == 2


def test_a_bit_width_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(InputError, match="it has 32, 4"):
        switch_of((4, 32)).set(8)
    for wrong in ((), (1,), (9,), (16, 4)):
        with pytest.raises(InputError, match="bit-widths must be"):
            switch_of(wrong)
    assert switch_of((4, 32, 4)).spec.bit_widths == (32, 4)


def test_learned_scales_start_from_the_first_batch_of_their_bit_width() -> None:
    switch = switch_of((8, 2))
    scale = LearnedScale(switch, stream=False).train()
    x = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    first = float(scale.fitted(x).detach())
    assert float(scale.fitted(10.0 * x).detach()) == first
    switch.set(2)
    assert float(scale.fitted(x).detach()) > 10.0 * first


def test_activation_scales_from_statistics_follow_every_batch_without_a_gradient() -> None:
    switch = switch_of((8, 2), activation_scales="statistics")
    scale = LearnedScale(switch, stream=False).train()
    x = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    first = float(scale.fitted(x))
    # All that share it have the same one in a forward pass.
    assert float(scale.fitted(10.0 * x)) == first
    assert float(scale.fitted(20.0 * x)) == first
    scale.follow()
    # A tenth of the way to fifteen times the size, however many share it.
    assert float(scale.value().detach()) == pytest.approx(first * 2.4, rel=1e-6)
    scale.follow()
    assert float(scale.value().detach()) == pytest.approx(first * 2.4, rel=1e-6)
    assert not scale.fitted(x).requires_grad
    scale.follow()
    kept = float(scale.eval().fitted(x))
    assert float(scale.fitted(10.0 * x)) == kept


def test_what_shares_a_scale_from_statistics_has_the_same_one_in_a_forward_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = NetworkSpec(
        name="resnet20",
        classes=10,
        input_size=16,
        bit_widths=(4,),
        activation_scales="statistics",
    )
    network = build_network(spec, torch.Generator().manual_seed(0)).train()
    pixels = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 255.0
    network(pixels)
    fitted, seen = LearnedScale.fitted, []

    def watched(scale: LearnedScale, x: Tensor) -> Tensor:
        value = fitted(scale, x)
        seen.append((scale, float(value)))
        return value

    monkeypatch.setattr(LearnedScale, "fitted", watched)
    network(pixels / 2.0)
    assert len(set(seen)) == len({scale for scale, _ in seen}) < len(seen)
    assert all(float(scale.value()) != value for scale, value in seen)


def test_learned_weight_scales_have_the_gradient_of_their_definition() -> None:
    switch = switch_of((4,), weight_scales="learned")
    quantizer = WeightQuantizer(switch, 3, fixed_bits=None).train()
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    # Some weights outside -7 … 7 steps, so that both parts of the gradient are there.
    y, scale, _, _ = quantizer(weight)
    assert scale is not None
    parameter = quantizer.get_parameter("scale_4")
    with torch.no_grad():
        parameter.mul_(0.6)
    variable = weight.clone().requires_grad_()
    y, scale, _, _ = quantizer(variable)
    assert scale is not None
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (y * upstream).sum().backward()

    ratio = weight / scale.detach()
    inside = ratio.abs() < 7.5
    assert 0 < int((~inside).sum()) < inside.numel() // 2
    by_element = torch.where(inside, ratio.round() - ratio, ratio.sign() * 7.0)
    factor = 1.0 / np.sqrt(weight[0].numel() * 7.0)
    expected = (upstream * by_element).sum(dim=(1, 2, 3)) * factor
    assert parameter.grad is not None
    assert variable.grad is not None
    torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(variable.grad, upstream * inside)
    # Evaluation takes the learned scale, and storing does not replace it.
    quantizer.eval()
    quantizer.store(weight)
    assert torch.equal(quantizer(weight)[0], y)


def test_gradient_noise_has_the_strength_asked_for_and_follows_its_seed() -> None:
    def noisy(seed: int) -> torch.Tensor:
        bank = NoiseBank(torch.Generator().manual_seed(seed), length=1 << 16)
        x = torch.ones(4, 8, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
        NoisyGradient.apply(x, 0.25, bank).sum().backward()
        assert x.grad is not None
        return x.grad - 1.0

    noise = noisy(0)
    assert float(noise.std()) == pytest.approx(0.25, rel=0.1)
    assert torch.equal(noise, noisy(0))
    assert not torch.equal(noise, noisy(1))
