"""Networks: one set of weights at every bit-width, codes where the docs say codes are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from deploy.core.errors import InputError
from training.networks import NETWORKS, Network, NetworkSpec, build_network
from training.networks.inverted_residual import InvertedResidual
from training.networks.units import ResidualBlock, bias_on_grid
from training.quantized_layers import weight_quantizer
from training.steps import residual_ratio

BIT_WIDTHS = (32, 8, 5, 4, 2)


def warmed(name: str = "resnet8", seed: int = 0, images: int = 16) -> Network:
    generator = torch.Generator().manual_seed(seed)
    spec = NetworkSpec(name=name, classes=10, input_size=16, bit_widths=BIT_WIDTHS)
    network = build_network(spec, generator)
    with torch.no_grad():
        for bits in BIT_WIDTHS:
            network.set_bit_width(bits)
            network(torch.randint(0, 256, (images, 3, 16, 16), generator=generator).float())
    return network.for_evaluation()


def block_of(network: Network, index: int) -> ResidualBlock:
    block = network.blocks[index]
    assert isinstance(block, ResidualBlock)
    return block


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_each_network_answers_at_each_bit_width(name: str) -> None:
    network = warmed(name, images=4)
    pixels = torch.randint(0, 256, (4, 3, 16, 16)).float()
    answers = []
    for bits in BIT_WIDTHS:
        with network.at(bits), torch.no_grad():
            answers.append(network(pixels))
    assert all(answer.shape == (4, 10) and answer.isfinite().all() for answer in answers)
    assert len({tuple(answer.flatten().tolist()) for answer in answers}) == len(BIT_WIDTHS)
    assert network.bit_width == BIT_WIDTHS[-1]


def test_tensors_between_layers_are_codes_of_the_documented_width() -> None:
    network = warmed()
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
            seen[name] = output

        return hook

    block = block_of(network, 1)
    block.enter.register_forward_hook(keep("enter"))
    block.first.register_forward_hook(keep("first"))
    block.second.register_forward_hook(keep("second"))
    block.register_forward_hook(keep("stream"))
    with network.at(4), torch.no_grad():
        network(torch.randint(0, 256, (8, 3, 16, 16)).float())
        stream_in = block.branch_codes.stream.value()
        stream_out = block.stream_quantizer.scale.value()
        scales = {
            "enter": stream_in * residual_ratio(4),
            "first": block.first.output.scale.value(),
            "second": stream_out,
            "stream": stream_out,
        }
    bounds = {"enter": (0, 15), "first": (0, 15), "second": (-128, 127), "stream": (0, 255)}
    for name, (low, high) in bounds.items():
        codes = seen[name] / scales[name]
        torch.testing.assert_close(codes, codes.round(), rtol=0.0, atol=1e-3)
        assert low <= float(codes.min()) <= float(codes.max()) <= high
        assert len(torch.unique(codes.round())) > 2


def test_first_and_last_layer_keep_eight_bits() -> None:
    network = warmed()
    with network.at(2):
        assert weight_quantizer(network.stem.conv).codes_bits() == 8
        assert weight_quantizer(network.head.linear).codes_bits() == 8
        assert weight_quantizer(block_of(network, 0).first.conv).codes_bits() == 2


def test_switching_to_evaluation_changes_nothing_and_needs_stored_scales() -> None:
    spec = NetworkSpec(name="resnet8", classes=10, input_size=16, bit_widths=(32, 4))
    network = build_network(spec, torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.eval()
    assert all(torch.equal(tensor, before[n]) for n, tensor in network.state_dict().items())
    pixels = torch.zeros(1, 3, 16, 16)
    network(pixels)  # float has no scales
    with network.at(4), pytest.raises(ValueError, match="for_evaluation"):
        network(pixels)
    assert network.for_evaluation() is network
    assert not network.training
    changed = [n for n, t in network.state_dict().items() if not torch.equal(t, before[n])]
    assert changed
    assert all(".scale_" in name for name in changed)


def test_evaluation_uses_the_scales_stored_when_training_ended() -> None:
    network = warmed()
    pixels = torch.randint(0, 256, (2, 3, 16, 16)).float()
    quantizer = weight_quantizer(block_of(network, 0).first.conv)
    with network.at(4), torch.no_grad():
        before = network(pixels)
        quantizer.get_buffer("scale_4").mul_(2.0)
        assert not torch.equal(network(pixels), before)
        network.train()
        network.for_evaluation()
        assert torch.equal(network(pixels), before)


def test_gradients_reach_the_pixels_at_every_bit_width() -> None:
    network = warmed()
    for bits in BIT_WIDTHS:
        pixels = torch.randint(0, 256, (2, 3, 16, 16)).float().requires_grad_()
        with network.at(bits):
            network(pixels).square().sum().backward()
        assert pixels.grad is not None
        assert float((pixels.grad != 0).float().mean()) > 0.5


def test_bias_on_grid_rounds_to_multiples_and_leaves_dead_channels() -> None:
    bias = torch.tensor([0.31, -1.0, 0.7])
    grid = torch.tensor([0.1, 0.3, 0.0])
    assert bias_on_grid(bias, grid).tolist() == pytest.approx([0.3, -0.9, 0.7])


def test_an_unknown_network_names_the_known_ones() -> None:
    spec = NetworkSpec(name="resnet9", classes=10, input_size=32, bit_widths=(8,))
    with pytest.raises(InputError, match=r"mobilenetv2, resnet18, .*resnet8, vgg11"):
        build_network(spec, torch.Generator())


def test_the_streams_of_mobilenet_are_signed_and_its_hidden_codes_end_at_six() -> None:
    network = warmed("mobilenetv2")
    blocks = [part for part in network.blocks if isinstance(part, InvertedResidual)]
    assert len(blocks) == 16
    assert sum(block.leave is not None for block in blocks) == 10
    block = next(block for block in blocks if block.leave is not None)
    with torch.no_grad():
        block.expand.norm.norms["4"].get_parameter("bias").add_(50.0)
        scale = block.expand.output.scale
        scale.get_parameter("scale_4").fill_(0.7)
    seen: dict[str, torch.Tensor] = {}
    block.enter.register_forward_hook(lambda _m, _i, y: seen.update(enter=y))
    block.expand.register_forward_hook(lambda _m, _i, y: seen.update(expand=y))
    block.register_forward_hook(lambda _m, _i, y: seen.update(stream=y))
    with network.at(4), torch.no_grad():
        network(torch.randint(0, 256, (8, 3, 16, 16)).float())
        stream = block.branch_codes.stream.value()
        scales = {"enter": stream * residual_ratio(4), "expand": scale.value(), "stream": stream}
    codes = {name: seen[name] / step for name, step in scales.items()}
    for value in codes.values():
        torch.testing.assert_close(value, value.round(), rtol=0.0, atol=1e-3)
    assert -8.001 <= float(codes["enter"].min()) < 0.0 < float(codes["enter"].max()) <= 7.001
    assert float(codes["stream"].min()) < 0.0
    # round(6 / 0.7) = 9, less than the 15 that four bits would hold.
    assert float(codes["expand"].max()) == pytest.approx(9.0, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("mobilenetv2", 3_504_872),
        ("vgg11", 9_736_232),
        ("vgg16", 15_231_912),
    ],
)
def test_networks_have_the_parameters_of_their_papers(name: str, parameters: int) -> None:
    spec = NetworkSpec(name=name, classes=1000, input_size=32, bit_widths=(32,))
    network = build_network(spec, torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in network.parameters()) == parameters
