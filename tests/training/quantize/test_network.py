"""The network of a plan: bit-widths, names, gradients, the modes it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deploy.core.errors import InputError
from tests.training.planned import convolution, last, weights
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
from training.quantize import Network
from training.quantize.layers import Table
from training.quantized_layers import weight_quantizer
from training.quantizers import code_range

CALIBRATION = fields(64, seed=1)
PIXELS = torch.from_numpy(fields(8, seed=2)).float()


def built(name: str, *bit_widths: int, **settings: Any) -> Network:
    module = settle(network(name), CALIBRATION)
    return planned(module, CALIBRATION, *(bit_widths or (32, 8, 4, 2)), **settings)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_is_codes_of_its_width_sign_and_scale(name: str) -> None:
    made = built(name)
    names = [step.name for step in made.plan.steps if step.codes is not None]
    for bits in (8, 4, 2):
        with made.at(bits), torch.no_grad():
            found = made.run(PIXELS, keep=names)
            for step in made.plan.steps:
                if step.codes is None:
                    continue
                width = made.scale_of(step.name).codes_bits()
                assert width == (8 if step.codes.wide else bits), step.name
                codes = found[step.name] / made.scale_of(step.name).value()
                torch.testing.assert_close(codes, codes.round(), rtol=0.0, atol=1e-3)
                codes = codes.round()
                low, high = code_range(width, signed=step.codes.signed)
                assert low <= float(codes.min()) and float(codes.max()) <= high, step.name


def test_layers_have_bits_of_their_own_by_name() -> None:
    made = built("classical", 32, 8, 4, mixed={4: {"classifier": 3, "classifier.1": 6}})

    def bits(name: str) -> tuple[int, int]:
        layer = convolution(made, name)
        return weight_quantizer(weights(layer)).codes_bits(), made.scale_of(name).codes_bits()

    with made.at(4):
        assert bits("classifier.1") == (6, 6)
        assert bits("classifier.3") == (3, 8)  # a table reads what it gives
        assert bits("features.1") == (8, 4)
        assert weight_quantizer(last(made).linear).codes_bits() == 3
        assert made(PIXELS).shape == (8, 5)
    with made.at(8):
        assert bits("classifier.1") == (8, 8)


def test_a_free_normalization_has_a_name_for_bits_and_no_weights() -> None:
    made = built("preactivated", 32, 8, 4, mixed={4: {"norm1": 3}})
    assert convolution(made, "norm1").conv is None
    with made.at(4):
        assert made.scale_of("norm1").codes_bits() == 3
        assert made.scale_of("norm2").codes_bits() == 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gated", "stem_norm.silu is a table, whose scale is not a power of two; train without"),
        ("shuffled", "grouped.leaky is a table"),
        ("preactivated", "norm1 is a free normalization"),
    ],
)
def test_an_exact_network_has_no_gate_table_or_free_normalization(name: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"network\.exact = true: {said}"):
        built(name, 32, 8, exact=True)


def test_an_exact_network_of_concatenations_and_averages_has_powers_of_two() -> None:
    made = built("dense", 32, 8, 4, exact=True)
    for bits in (8, 4):
        with made.at(bits), torch.no_grad():
            for step in made.plan.steps:
                if step.codes is not None:
                    source = made.scale_of(step.name)
                    unit = source.value() / source.odd_part()
                    assert float(torch.frexp(unit)[0]) == 0.5, step.name


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_the_pixels_every_weight_and_every_scale(name: str) -> None:
    made = built(name, 32, 4).train()
    made.set_bit_width(4)
    pixels = PIXELS.clone().requires_grad_()
    made(pixels).square().sum().backward()
    assert pixels.grad is not None and float((pixels.grad != 0).float().mean()) > 0.05
    used = {n: p.grad for n, p in made.named_parameters() if ".norms.32." not in n}
    assert [n for n, grad in used.items() if grad is None or not bool(grad.any())] == []


def test_evaluation_takes_the_table_and_gradients_the_function() -> None:
    made = built("shuffled", 32, 4)
    made.set_bit_width(4)
    layer = made.layer("grouped.leaky")
    assert isinstance(layer, Table)
    low, high = code_range(8, signed=True)
    scale, to = made.scale_of("grouped").value(), made.scale_of("grouped.leaky").value()
    x = (torch.arange(low, high + 1) * scale.detach()).requires_grad_()
    y = layer(x)
    assert torch.equal((y / to).round().long(), torch.from_numpy(layer.entries()))
    y.sum().backward()
    inside = ((y / to).round() > -8) & ((y / to).round() < 7)
    expected = torch.where(x > 0.0, 1.0, 0.1)
    assert x.grad is not None
    torch.testing.assert_close(x.grad[inside], expected[inside])


def test_names_that_a_dictionary_of_modules_has_itself_are_names_of_layers() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keys, self.values = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3)
            self.pop = nn.Linear(4, 5)
            self.training_ = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.pop(self.values(self.training_(self.keys(x))).mean((2, 3)))

    module = settle(Named(), CALIBRATION)
    made = planned(module, CALIBRATION, 32, 8)
    assert [s.name for s in made.plan.steps if s.kind in ("convolution", "linear")] == [
        "keys",
        "values",
        "pop",
    ]
    assert torch.equal(
        weights(convolution(made, "keys")).weight, module.get_parameter("keys.weight")
    )
    with made.at(32), torch.no_grad():
        torch.testing.assert_close(made(PIXELS), module((PIXELS - 128.0) / 64.0))


@pytest.mark.parametrize("classes", [5, 10, 100])
def test_logits_that_are_averages_keep_their_size(classes: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    made = planned(module, CALIBRATION, 32, 8)
    with torch.no_grad():
        quantized = made.at(8)
        with quantized:
            ours = made(PIXELS)
        theirs = module((PIXELS - 128.0) / 64.0)
    # Half a step of the logits' own codes is 2% of the largest of them.
    assert float((ours - theirs).abs().max()) < 0.06 * float(theirs.abs().max())


def test_the_network_takes_images_of_its_plan_alone() -> None:
    made = built("dense", 32, 8)
    for wrong in (torch.zeros(2, 3, SIZE, SIZE + 1), torch.zeros(3, SIZE, SIZE)):
        with pytest.raises(InputError, match="expected images N×3×11×11, got"):
            made(wrong)
    with pytest.raises(InputError, match="not trained at bit-width 3"), made.at(3):
        pass
    with pytest.raises(KeyError):
        made.layer("nowhere")


def test_a_network_that_was_never_calibrated_says_so() -> None:
    found = plan_module(network("dense"), PIXELS)
    spec = NetworkSpec(name="own", classes=5, input_size=SIZE, bit_widths=(8,))
    made = Network(spec, found.plan).eval()
    with pytest.raises(ValueError, match=r"for_evaluation\(\)"):
        made(PIXELS)


def test_what_is_kept_is_given_and_the_rest_is_let_go() -> None:
    made = built("dense", 32)
    with torch.no_grad():
        found = made.run(PIXELS, keep=["stem", "slice"])
    assert set(found) == {"stem", "slice", "linear"}
