"""A defense may run the network without moving what the training step alone may move."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.training.test_defenses import batch, small_network
from training.frozen import frozen_statistics, image_losses, pixel_gradient
from training.quantize import Network
from training.tensors import persistent_tensors


def snapshot(network: Network) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in persistent_tensors(network).items()}


def started() -> Network:
    """A network that has seen one batch at each bit-width."""
    network = small_network().train()
    images = batch()
    for bits in network.bit_widths:
        network.set_bit_width(bits)
        network(images.pixels)
    return network


def test_a_frozen_network_is_as_it_was_afterwards() -> None:
    for network in (small_network().train(), started()):
        network.switch.gradient_noise = 0.3
        before, modes = snapshot(network), [m.training for m in network.modules()]
        wanted = [p.requires_grad for p in network.parameters()]
        images = batch()
        for bits in network.bit_widths:
            network.set_bit_width(bits)
            with frozen_statistics(network):
                gradient = pixel_gradient(network, images.pixels, images.labels)
            assert gradient.shape == images.pixels.shape
            assert not gradient.requires_grad
        assert all(torch.equal(before[n], t) for n, t in snapshot(network).items())
        assert [m.training for m in network.modules()] == modes
        assert [p.requires_grad for p in network.parameters()] == wanted
        assert network.switch.gradient_noise == 0.3
        assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("settings", [{}, {"weight_scales": "learned"}, {"exact": True}])
def test_a_frozen_network_is_the_one_that_is_deployed(settings: dict[str, Any]) -> None:
    # While a network trains, the scales of its weights are stored nowhere, and an exact network's
    # weights have no gain in them; an inner attack must see what would be deployed all the same.
    network, images = small_network(**settings).train(), batch()
    for _ in range(3):
        for bits in network.bit_widths:
            network.set_bit_width(bits)
            network(images.pixels)
    deployed = copy.deepcopy(network).for_evaluation()
    for bits in network.bit_widths:
        network.set_bit_width(bits)
        deployed.set_bit_width(bits)
        with torch.no_grad():
            wanted = deployed(images.pixels)
            with frozen_statistics(network):
                found = network(images.pixels)
        if "exact" not in settings:
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        elif bits >= 8:
            # The sums are not whole numbers here, so codes at a tie may tip.
            own, other = (t - t.mean(dim=0) for t in (wanted, found))
            assert float((other - own).norm() / own.norm()) < 0.1


def test_the_gradient_of_an_image_is_its_own() -> None:
    network, images = started(), batch()
    for bits in (32, 4):
        network.set_bit_width(bits)
        with frozen_statistics(network):
            all_of_them = pixel_gradient(network, images.pixels, images.labels)
            alone = pixel_gradient(network, images.pixels[3:5], images.labels[3:5])
            losses = image_losses(network, images.pixels, images.labels)
        assert float(all_of_them.abs().max()) > 0.0
        # Sums in another order; at 4 bits a code may tip, so only nearly all must agree.
        close = torch.isclose(alone, all_of_them[3:5], rtol=1e-3, atol=1e-7)
        assert float(close.float().mean()) > 0.99
        assert losses.shape == (16,)
